"""Three modalities, of which a time series is read by the encoder of this plugin.

Command:
  mmjax train --config=examples/plugin/fused.py --workdir=runs/rings-fused
"""

from mmjax.config import load_recipe, set_group


def get_config(arg: str = ""):
    """Returns the config of `configs/fusion.py` with another encoder of the series."""
    config = load_recipe("fusion:kind=joint", ("rings",))
    layers = dict(width=32, depth=1, heads=2, mlp_dim=64, class_token=False, scan=False)
    set_group(config, "model.encoders.series", dict(kind="conv_series", window=7, **layers))
    config.steps = 20
    return config
