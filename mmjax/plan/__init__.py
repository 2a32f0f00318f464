"""`mmjax plan`: what a config would cost on a TPU slice that is not there, asked of the TPU compiler itself."""
