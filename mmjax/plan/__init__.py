"""`mmjax plan`: what a config would cost on TPUs or GPUs that are not there, asked of their compiler itself."""
