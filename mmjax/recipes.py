"""What recipes have in common that train in minutes on two cores, on drawn scenes."""

import ml_collections


def on_scenes(config: ml_collections.ConfigDict, *, steps: int, data: str = "shapes") -> None:
    """Sets a config up for drawn scenes of 32 pixels and Muon, as `configs/quickstart.py` is.

    Args:
      config: changed in place; its model is one of the `small-...` sizes.
      steps: of training.
      data: the source; its test split is evaluated on.
    """
    config.steps = steps
    config.batch_size = 128
    config.precision = "float32"  # CPUs are slow in bfloat16
    unroll(config.model)
    config.data.train = data
    config.data.eval = f"{data}/test"
    config.data.tokenizer = "words:shapes"
    config.data.mean_std = "siglip"
    config.data.crop_scale = (1.0, 1.0)  # every pixel of a scene counts, and there are always new ones
    config.data.crop_ratio = (1.0, 1.0)
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 6e-3
    config.optimizer.b1 = 0.95
    config.optimizer.weight_decay = 0.1
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = max(1, steps // 10)
    config.checkpoint.every = max(1, steps // 3)
    config.eval.every = 0
    config.eval.batch_size = 250
    config.log.every = 20


def unroll(settings: ml_collections.ConfigDict) -> None:
    """Layers one after the other, and the cheaper of the two GELUs: both run faster on a CPU."""
    for value in settings.values():
        if isinstance(value, ml_collections.ConfigDict):
            unroll(value)
    if settings.get("activation") == "gelu":
        settings.activation = "gelu_tanh"
    if "scan" in settings:
        settings.scan = False
