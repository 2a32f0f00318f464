"""`mmjax plan`: the costs of a config on TPUs or GPUs that are not there, by their own compiler."""
