"""A recipe small enough to be trained many times over in the tests: a few steps of one-layer towers."""

from mmjax.config.recipe import parse_arg
from mmjax.config.schema import base_config


def get_config(arg: str = ""):
    args = parse_arg(arg, steps=8)
    config = base_config("tiny")
    config.name = "tiny"
    config.steps = args.steps
    config.batch_size = 16
    config.objectives.itc = 1.0
    config.precision = "float32"
    config.model.text.vocab_size = 259
    config.model.text.eos_id = 258
    for tower in (config.model.image, config.model.text):
        tower.depth = 1
        tower.scan = False
    config.data.train = "shapes"
    config.data.tokenizer = "bytes"
    config.optimizer.learning_rate = 1e-3
    config.schedule.name = "constant"
    config.schedule.warmup = 2
    config.checkpoint.every = 3
    config.eval.every = 4
    config.eval.batch_size = 8
    config.log.every = 1
    config.log.tensorboard = False
    return config
