"""CLIP from scratch on drawn scenes and real handwritten digits, on a laptop.

Command: python train.py --config=configs/quickstart.py --workdir=runs/quickstart
"""

from mmjax.config import base_config, parse_arg


def get_config(arg: str = ""):
    args = parse_arg(arg, steps=600)
    config = base_config("small")
    config.name = "quickstart"
    config.steps = args.steps
    config.batch_size = 256
    config.objectives.itc = 1.0
    config.precision = "float32"
    config.model.text.context_length = 24
    for tower in (config.model.image, config.model.text):
        tower.activation = "gelu_tanh"
        tower.scan = False
    config.data.train = "shapes@0.7+digits@0.3"
    config.data.eval = "shapes/test+digits/test"
    config.data.mean_std = "siglip"
    config.data.crop_scale = (0.9, 1.0)
    config.data.crop_ratio = (0.9, 1.1)
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = 60
    config.checkpoint.every = 200
    config.eval.every = 200
    config.log.every = 20
    return config
