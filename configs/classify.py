"""A classifier by labels: of images, or of two modalities that each tell a part.

Command:
  python train.py --config=configs/classify.py --workdir=runs/classify
  python train.py --config=configs/classify.py:modalities=text+table --workdir=runs/text-table
  python eval.py --workdir=runs/classify
Recipe: an encoder of each of `modalities`, the mean of its tokens, and a linear map of all means to the classes.
  `image`: a vision transformer of four layers on patches of 4 x 4 pixels, with random crops, from scratch.
  `video+audio`, `image+series`, `text+table`: encoders of one or two layers, whose tokens go through one more together.
Data: `digits`, 1,442 handwritten ones and 355 held out; `actions`, nine classes of which video or sound alone tells one
  of three; `sensors`, of which two modalities tell nine tenths. Labels of your own: docs/data.md#labels; their number
  is `model.classes`, and the pixels of their images `model.image.image_size` and `model.encoders.image.image_size`.
Hardware and time: two cores of a shared 2.5 GHz Xeon, on which other work ran: 3 minutes of processor time for images,
  half a minute for image+series and text+table, 3.5 for video+audio.
Expected: image, top-1 99.2 % of the 355, mean class recall 99.2 %. image+series 89.5 % (43.2 % without the image,
  46.0 % without the series; no classifier can exceed 90.6 %). text+table 89.5 % (49.1 % without the table, 42.5 %
  without the text; at most 90.6 %). video+audio is the model of `action`, with what that reaches. One seed each.
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.data.sources import sensors
from mmjax.errors import validate_choice

LAYERS = dict(width=64, heads=4, mlp_dim=128, activation="gelu_tanh", scan=False)
TOKENS = dict(LAYERS, class_token=False)
ENCODERS = {
    "image": {"image": dict(TOKENS, kind="image", image_size=32, patch_size=4, depth=4, pre_norm=False)},
    "video+audio": {
        "video": dict(TOKENS, kind="video", frames=8, image_size=32, patch_size=8, tubelet_frames=2, depth=2),
        "audio": dict(TOKENS, kind="audio", frames=96, mel_bins=32, patch_size=(8, 32), depth=1),
    },
    "image+series": {
        "image": dict(TOKENS, kind="image", image_size=16, patch_size=4, depth=1, pre_norm=False),
        "series": dict(TOKENS, kind="series", steps=32, patch_length=4, depth=1),
    },
    "text+table": {
        "text": dict(
            LAYERS,
            kind="text",
            vocab_size=len(sensors.VOCABULARY),
            context_length=sensors.SHAPES["text"][0],
            causal=False,
            mask_padding=True,
            norm_eps=1e-6,
            depth=1,
        ),
        "table": dict(TOKENS, kind="table", numeric=sensors.NUMERIC, categories=sensors.CATEGORIES, depth=1),
    },
}
# Source, classes, steps.
DATA = {
    "image": ("digits", 10, 1200),
    "video+audio": ("actions", 9, 1000),
    "image+series": ("sensors", 8, 300),
    "text+table": ("sensors", 8, 300),
}


def get_config(arg: str = ""):
    args = parse_arg(arg, modalities="image", steps=0)  # 0: the modalities' own
    modalities = validate_choice("modalities", args.modalities, ENCODERS)
    source, classes, steps = DATA[modalities]
    steps = args.steps or steps
    config = base_config("tiny")
    config.variant = modalities
    config.name = f"classify-{modalities}"
    config.steps = steps
    config.batch_size = 64
    config.objectives.classify = 1.0
    config.precision = "float32"  # CPUs are slow in bfloat16
    is_of_images = modalities == "image"
    fusion = dict(kind="concat", width=64) if is_of_images else dict(LAYERS, kind="joint", depth=1)
    image = {"image_size": 32} if is_of_images else None  # the others' are arrays
    model = dict(kind="fused", encoders=ENCODERS[modalities], fusion=fusion, classes=classes, image=image)
    set_group(config, "model", model)

    config.data.train = source
    config.data.eval = f"{source}/test"
    if is_of_images:
        config.data.crop_scale = (0.6, 1.0)
        config.loss.label_smoothing = 0.1
    elif source == "actions":
        config.data.mean_std = "imagenet"
        config.data.train_resize = "squash"  # the whole frame; a crop would move the walls
        config.data.audio.sample_rate = 8000

    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.05 if is_of_images else 0.01
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = steps // 10
    config.checkpoint.every = steps
    config.eval.every = 0
    config.eval.batch_size = 200
    config.log.every = 50
    return config
