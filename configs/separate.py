"""Audio-visual source separation (Sound of Pixels): which part of a mixture of sounds belongs to what is seen.

Command:
  python train.py --config=configs/separate.py --workdir=runs/separate
  python train.py --config=configs/separate.py:pictures=false --workdir=runs/separate-blind
  python train.py --config=configs/separate.py:variant=music --workdir=runs/music --config.data.train=files:DIR
  python eval.py --workdir=runs/separate
Recipe: the sounds of two clips are mixed; a U-Net makes maps of the mixture's spectrogram, which are added with weights
  that the pictures of one of the clips tell, into a mask of its sound. The loss is the cross-entropy of the binary
  mask, weighted by the logarithm of the magnitude. `pictures=false` has one learned vector in place of all pictures.
Data: `instruments`, a shape whose colour is the register of what it plays and whose form is its timbre; nothing in a
  mixture says which part a picture is of. No description of a held-out clip is trained on.
Size for data of your own: variant=music is Sound of Pixels' (docs/recipes-sources.md), for MP4s with sound in a folder.
Hardware and time: two cores of a shared 2.5 GHz Xeon: 2.4 minutes of processor time, with the evaluation. `music` has
  not been run.
Expected: SI-SDR 13.5 dB above that of the mixture, on 256 held-out mixtures (SDR 15.3 dB, SIR 17.7 dB); without
  pictures 0.0 dB, for a mask that cannot know which sound is meant.
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.errors import validate_choice

VIDEO = {
    "instruments": dict(
        kind="video",
        width=64,
        heads=4,
        mlp_dim=128,
        depth=1,
        activation="gelu_tanh",
        scan=False,
        class_token=False,
        frames=8,
        image_size=32,
        patch_size=8,
        tubelet_frames=2,
    ),
    "music": dict(
        kind="frames",
        width=384,
        heads=6,
        mlp_dim=1536,
        depth=12,
        frames=3,
        image_size=224,
        patch_size=16,
        frame_pool="none",
        temporal="transformer",
        temporal_depth=0,
    ),
}
NETWORK = {
    "instruments": dict(channels=(16, 32, 64), features=16, upsample="subpixel"),
    "music": dict(channels=(64, 128, 256, 512, 512, 512, 512), features=32, upsample="bilinear"),
}


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="instruments", pictures=True, steps=0)  # 0: the variant's own
    variant = validate_choice("variant", args.variant, NETWORK)
    config = base_config("tiny")
    config.variant = variant if args.pictures else f"{variant}-blind"
    config.name = f"separate-{config.variant}"
    config.objectives.separate = 1.0
    model = dict(kind="separator", video=VIDEO[variant], pictures=args.pictures, **NETWORK[variant])
    set_group(config, "model", model)
    config.data.mean_std = "imagenet"
    if variant == "music":
        _set_published(config)
    else:
        _set_embedded(config)
    config.steps = args.steps or config.steps
    config.checkpoint.every = config.steps if variant == "instruments" else 1000
    config.schedule.warmup = min(config.schedule.warmup, config.steps // 10)
    return config


def _set_embedded(config):
    config.steps = 800
    config.batch_size = 32
    config.precision = "float32"  # CPUs are slow in bfloat16
    config.data.train = "instruments"
    config.data.eval = "instruments/test"
    config.data.train_resize = "squash"  # the whole frame
    config.data.separation.update(sample_rate=8000, n_fft=1022, hop=256, frames=32, log_bins=128)
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = 80
    config.eval.every = 0
    config.eval.batch_size = 100
    config.log.every = 20


def _set_published(config):
    config.steps = 60_000
    config.batch_size = 80
    config.data.caption_keys = "none"  # videos alone
    config.data.video.update(rate=8.0, stride=24)
    config.data.crop_scale = (0.8, 1.0)
    config.data.flip = True
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.05
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = 1000
