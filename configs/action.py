"""Actions seen and heard: a classifier of videos with their sound, and with either alone.

Command:
  python train.py --config=configs/action.py --workdir=runs/action
  python eval.py --workdir=runs/action
Recipe: tubelets of 2 frames and 8 x 8 pixels through a ViViT of two layers, patches of a log-mel spectrogram through an
  AST of one, and a transformer over the tokens of both. `only=video` and `only=audio` train on one alone;
  `video=frames` puts an image tower on each frame and layers over them in place of the tubelets; `steps` is how long.
Data: `actions`, two moving objects between walls: how they move is seen and not heard, what the walls are made of is
  heard and not seen, so that either alone tells one class of nine with probability 1/3.
Hardware and time: two cores of a shared 2.5 GHz Xeon, two minutes for 500 steps; more than 500 have not been tried.
Expected: 85.0 % of 1,000 held-out scenes after 500 steps; 26.6 % of them without the sound, 34.0 % without the video.
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.errors import validate_choice

LAYERS = dict(width=64, heads=4, mlp_dim=128, activation="gelu_tanh", scan=False, class_token=False)
VIDEO = {
    "video": dict(LAYERS, frames=8, image_size=32, patch_size=8, tubelet_frames=2, depth=2),
    "frames": dict(
        LAYERS,
        frames=8,
        image_size=32,
        patch_size=8,
        depth=1,
        pre_norm=False,
        frame_pool="none",
        temporal="transformer",
        temporal_depth=1,
    ),
}
AUDIO = dict(LAYERS, kind="audio", frames=96, mel_bins=32, patch_size=(8, 32), depth=1)


def get_config(arg: str = ""):
    args = parse_arg(arg, only="", video="video", steps=1000)
    kind = validate_choice("video", args.video, VIDEO)
    encoders = {"video": dict(VIDEO[kind], kind=kind), "audio": AUDIO}
    if args.only:
        encoders = {validate_choice("only", args.only, encoders): encoders[args.only]}
    config = base_config("tiny")
    config.variant = args.only or "video+audio"
    config.name = f"action-{config.variant}"
    config.steps = args.steps
    config.batch_size = 64
    config.objectives.classify = 1.0
    config.precision = "float32"  # CPUs are slow in bfloat16
    layers = {name: value for name, value in LAYERS.items() if name != "class_token"}
    fusion = dict(layers, kind="joint", depth=1)
    set_group(config, "model", dict(kind="fused", encoders=encoders, fusion=fusion, classes=9))

    config.data.train = "actions"
    config.data.eval = "actions/test"
    if "video" in encoders:
        config.data.mean_std = "imagenet"
        config.data.train_resize = "squash"  # the whole frame; a crop would move the walls
    config.data.audio.sample_rate = 8000 if "audio" in encoders else 0

    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = args.steps // 10
    config.checkpoint.every = args.steps
    config.eval.every = 0
    config.eval.batch_size = 200
    config.log.every = 20
    return config
