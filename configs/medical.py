"""Classes of patients by a picture and a series of measurements: an X-ray with an ECG or with laboratory values.

Command:
  python train.py --config=configs/medical.py --workdir=runs/medical
  python train.py --config=configs/medical.py:variant=medfuse --workdir=runs/mortality
  python eval.py --workdir=runs/medical --config.eval.corrupt=series:noise0.5/1/2+image:drop0.5
Recipe: a vision transformer, a transformer over patches of the series, and one over the tokens of both. `medfuse` takes
  MedFuse's settings for in-hospital mortality (Hayat et al. 2022): 48 hours of 76 values, pictures of 224 pixels, which
  most patients lack. `only=image` and `only=series` train on one alone. `steps` is how long.
Data: tables `series,image,label`, stays/train.csv and test.csv (`data.image_key=series+image`): paths of series as
  `.npy` [steps, channels], NaN where a row is missing, and of pictures, or nothing. For other labels than two, of which
  each stay has one, set --config.model.classes. `tiny` has `sensors` in their place, of
  which a picture and a series tell nine tenths.
Hardware and time: `tiny` half a minute of processor time of two cores of a shared 2.5 GHz Xeon; `medfuse` one
  accelerator.
Expected: the main metric is `auroc`, 50 % by chance and for who always names one class. `tiny`: AUROC 99.3 %, top-1
  89.5 % (43.2 % without the image, 46.0 % without the series; no classifier can exceed 90.6 %). `medfuse` has not been
  trained here: its data are not free. One seed.
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.errors import validate_choice

TINY = dict(width=64, heads=4, mlp_dim=128, activation="gelu_tanh", scan=False, class_token=False)
SMALL = dict(width=384, heads=6, mlp_dim=1536, activation="gelu", scan=True, class_token=False)
SERIES = dict(width=256, heads=4, mlp_dim=1024, activation="gelu", scan=True, class_token=False, dropout=0.3)
VARIANTS = {
    "tiny": {
        "image": dict(TINY, image_size=16, patch_size=4, depth=1, pre_norm=False),
        "series": dict(TINY, steps=32, patch_length=4, depth=1),
    },
    "medfuse": {
        "image": dict(SMALL, image_size=224, patch_size=16, depth=12, pre_norm=False),
        "series": dict(SERIES, steps=48, patch_length=1, depth=2),
    },
}
FUSION = {"tiny": TINY, "medfuse": SERIES}


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="tiny", only="", steps=0)  # 0: the variant's own
    variant = validate_choice("variant", args.variant, VARIANTS)
    encoders = {name: dict(encoder, kind=name) for name, encoder in VARIANTS[variant].items()}
    if args.only:
        encoders = {validate_choice("only", args.only, encoders): encoders[args.only]}
    is_tiny = variant == "tiny"
    config = base_config("tiny")
    config.variant = variant
    config.name = "-".join(("medical", variant, *filter(None, [args.only])))
    config.objectives.classify = 1.0
    config.batch_size = 64 if is_tiny else 16
    config.steps = args.steps or (300 if is_tiny else 58900)
    # Pictures are files; those of `sensors` are arrays.
    image = {"image_size": 224} if not is_tiny and "image" in encoders else None
    layers = {name: value for name, value in FUSION[variant].items() if name != "class_token"}
    fusion = dict(layers, kind="joint", depth=1)
    classes = 8 if is_tiny else 2
    model = dict(kind="fused", encoders=encoders, fusion=fusion, classes=classes, image=image)
    set_group(config, "model", model)
    config.log.every = 50
    config.eval.every = 0
    config.eval.batch_size = 200
    if is_tiny:
        config.precision = "float32"  # CPUs are slow in bfloat16
        config.data.train, config.data.eval = "sensors", "sensors/test"
        config.optimizer.learning_rate = 1e-3
        config.optimizer.weight_decay = 0.01
        config.optimizer.grad_clip = 1.0
        config.schedule.warmup = config.steps // 10
        config.checkpoint.every = config.steps
        return config
    config.data.train, config.data.eval = "pairs:stays/train.csv", "pairs:stays/test.csv"
    config.data.image_key = config.eval.image_key = "+".join(sorted(encoders, reverse=True))
    if image is not None:
        config.data.mean_std = "imagenet"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.0
    config.optimizer.b2 = 0.9
    config.optimizer.eps = 1e-8
    config.schedule.name = "constant"
    config.schedule.warmup = 0
    config.checkpoint.every = 1178
    return config
