"""Rings by everything that this plugin brings, in seconds on a CPU.

Command:
  mmjax train --config=examples/plugin/recipe.py --workdir=runs/rings
"""

from mmjax.config import base_config, parse_arg, set_group


def get_config(arg: str = ""):
    """Returns the config."""
    args = parse_arg(arg, steps=60)
    config = base_config("tiny", plugins=("rings",))
    from rings.model import bag_settings

    set_group(config, "model", bag_settings(vocab_size=30, context_length=32))
    config.name, config.variant, config.precision = "rings", "bag", "float32"
    config.steps, config.batch_size = args.steps, 64
    config.objectives.update(itc=1.0, alignment=0.2, uniformity=0.1)
    config.loss.uniformity.sharpness = 1.5
    config.data.update(train="rings/train", eval="rings/test", tokenizer="letters", mean_std="siglip")
    config.data.train_resize = "squash"
    config.optimizer.update(name="adan", learning_rate=3e-3, weight_decay=0.02, adan=dict(b3=0.98))
    config.schedule.warmup = 5
    config.checkpoint.every = 20
    config.eval.update(every=0, batch_size=50, modality_gap=dict(captions=2))
    config.log.update(every=10, writers=("csv",))
    return config
