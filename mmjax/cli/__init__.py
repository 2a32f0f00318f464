"""The command line: `mmjax COMMAND`, one file a command."""
