"""Emotions of faces and voices: a classifier of videos with their sound, and of either alone.

Command:
  python train.py --config=configs/emotion.py --workdir=runs/emotion
  python train.py --config=configs/emotion.py:variant=mbt-B/16 --workdir=runs/crema-d
  python eval.py --workdir=runs/emotion --config.eval.corrupt=audio:snr20/10/0
Recipe: `tiny` is the model of `action`. `mbt-B/16` is MBT's (Nagrani et al. 2021): ViT-B/16 on tubelets and on log-mel
  spectrograms, eight layers each and four that exchange what they know through four bottleneck tokens, with the
  settings of its mini-AudioSet config. `only=video` and `only=audio` train on one alone. `steps` is how long.
Data: CREMA-D's six emotions as tables `path,label` of its videos, crema-d/train.csv and test.csv (6,698 to train on and
  744 held out, as OGM-GE divides them), or any other of that kind: --config.model.classes=8 for RAVDESS. A file of
  sound alone is an example without a picture. `tiny` has `actions` in their place: nine classes of which video or sound
  alone tells one of three.
Hardware and time: `tiny` as `action`, 3.5 minutes of processor time of two cores of a shared 2.5 GHz Xeon. `mbt-B/16`
  is for eight accelerators.
Expected: the main metric is UAR, `mean_per_class_recall`; always naming one class has a ninth of `actions` and a sixth
  of CREMA-D. `tiny` is as a model what `action` is, with what that reaches. `mbt-B/16` has not been trained here.
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.errors import validate_choice

TINY = dict(width=64, heads=4, mlp_dim=128, activation="gelu_tanh", scan=False)
BASE = dict(width=768, heads=12, mlp_dim=3072, activation="gelu", scan=True)
VARIANTS = {
    "tiny": {
        "video": dict(TINY, class_token=False, frames=8, image_size=32, patch_size=8, tubelet_frames=2, depth=2),
        "audio": dict(TINY, class_token=False, frames=96, mel_bins=32, patch_size=(8, 32), depth=1),
    },
    "mbt-B/16": {
        "video": dict(
            BASE,
            class_token=False,
            frames=32,
            image_size=224,
            patch_size=16,
            tubelet_frames=2,
            tubelet_init="central_frame",
            positions="joint",
            depth=8,
            final_norm=False,
            drop_path=0.3,
        ),
        "audio": dict(BASE, class_token=False, frames=800, mel_bins=128, patch_size=(16, 16), depth=8, drop_path=0.3),
    },
}


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="tiny", only="", steps=0)  # 0: the variant's own
    variant = validate_choice("variant", args.variant, VARIANTS)
    encoders = {name: dict(encoder, kind=name) for name, encoder in VARIANTS[variant].items()}
    if args.only:
        encoders = {validate_choice("only", args.only, encoders): encoders[args.only]}
    config = base_config("tiny")
    config.variant = variant
    config.name = "-".join(("emotion", variant.replace("/", ""), *filter(None, [args.only])))
    config.objectives.classify = 1.0
    config.batch_size = 64
    config.steps = args.steps or (1000 if variant == "tiny" else 5200)
    config.log.every = 20
    config.eval.every = 0
    config.optimizer.grad_clip = 1.0
    layers = TINY if variant == "tiny" else dict(BASE, drop_path=0.3)
    if variant == "tiny":
        fusion, classes = dict(layers, kind="joint", depth=1), 9
        _tiny(config)
    else:
        fusion, classes = dict(layers, kind="bottleneck", depth=4, fusion_layer=0, bottlenecks=4), 6
        _mbt(config)
    if len(encoders) == 1:  # with what one modality has
        fusion = dict(layers, kind="joint", depth=fusion["depth"])
    set_group(config, "model", dict(kind="fused", encoders=encoders, fusion=fusion, classes=classes))
    if "video" not in encoders:
        config.data.mean_std, config.data.train_resize, config.data.flip = "clip", "crop", False
        config.data.video.stride = 0
    if "audio" not in encoders:
        config.data.audio.sample_rate, config.data.audio.preset = 0, ""
        config.data.audio.time_masks = config.data.audio.frequency_masks = (0, 0)
    return config


def _tiny(config) -> None:
    config.precision = "float32"  # CPUs are slow in bfloat16
    config.data.train, config.data.eval = "actions", "actions/test"
    config.data.mean_std = "imagenet"
    config.data.train_resize = "squash"  # the whole frame; a crop would move the walls
    config.data.audio.sample_rate = 8000
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.01
    config.schedule.warmup = config.steps // 10
    config.checkpoint.every = config.steps
    config.eval.batch_size = 200


def _mbt(config) -> None:
    """Settings of scenic's balanced_audioset_base.py, on CREMA-D's 6,698 clips."""
    config.data.train, config.data.eval = "pairs:crema-d/train.csv", "pairs:crema-d/test.csv"
    config.data.mean_std = "siglip"
    config.data.flip = True
    config.data.video.stride = 2
    config.data.audio.preset = "mbt"
    config.data.audio.time_masks, config.data.audio.frequency_masks = (4, 48), (1, 48)
    config.loss.label_smoothing = 0.3
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.5
    config.optimizer.weight_decay = 0.0
    config.schedule.warmup = config.steps // 20
    config.checkpoint.every = 520
    config.eval.batch_size = 64
