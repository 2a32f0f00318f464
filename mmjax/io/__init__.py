"""Whatever opens files and folders, local or remote."""
