"""Audio-visual synchronisation: by how many frames the sound of a video is late, learned by contrast of shifts.

Command:
  python train.py --config=configs/av_sync.py --workdir=runs/av-sync
  python eval.py --workdir=runs/av-sync
  python train.py --config=configs/av_sync.py:variant=base --workdir=runs/av-sync-base \
      --config.data.train=files:DIR
Recipe: a tower of videos sees a window of a few frames, one of sounds the windows of a clip that are shifted one frame
  from the next; the cosines of the two, times a learned scale, are logits of a softmax whose target is the true shift.
  `variant=small` averages the cosines of eight windows of a clip, of 0.3 s at 10 frames a second, and has 5 shifts
  each way; `variant=base` has SyncNet's windows of 0.2 s at 25 frames a second, and 15 shifts each way, for videos
  with their sound in files (docs/recipes-sources.md).
Data: `bouncing`, a ball between two walls whose bounces are seen and heard at irregular times. The sound of a clip is
  cut without regard to the shift, which is drawn by itself, so that neither silence nor the edges of a sound tell it.
Hardware and time: two cores of a shared 2.5 GHz Xeon: 1.7 minutes of processor time, with the evaluation.
  `variant=base` has not been trained.
Expected: the offset of all of 1,000 held-out clips exactly, of 11 offsets (always the same answer: 28.6 % within one
  frame and 10.0 % exactly), with seeds 0 and 1; 95.3 % where only as many windows are averaged as in training, 1 s in
  place of 1.8 s. After 300 steps 99.5 % with seed 0 and 88.1 % with seed 1.
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.errors import validate_choice

LAYERS = dict(activation="gelu_tanh", norm_eps=1e-6, class_token=False)
SMALL = dict(LAYERS, width=64, heads=4, mlp_dim=128, depth=1, scan=False)
BASE = dict(LAYERS, width=768, heads=12, mlp_dim=3072, depth=12)
# Video, sound, width of the space, frames a second, shifts each way, windows of a clip.
VARIANTS = {
    "small": (
        dict(SMALL, kind="video", frames=3, image_size=32, patch_size=8, tubelet_frames=3),
        dict(SMALL, kind="audio", frames=30, mel_bins=32, patch_size=(10, 32)),
        64,
        10.0,
        5,
        8,
    ),
    "base": (
        dict(BASE, kind="video", frames=5, image_size=224, patch_size=16, tubelet_frames=5),
        dict(BASE, kind="audio", frames=20, mel_bins=40, patch_size=(4, 10)),
        1024,
        25.0,
        15,
        1,
    ),
}


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small", steps=0)  # 0: the variant's own
    variant = validate_choice("variant", args.variant, VARIANTS)
    is_small = variant == "small"
    video, audio, width, rate, shifts, windows = VARIANTS[variant]
    config = base_config("tiny")
    config.variant = variant
    config.name = f"av-sync-{variant}"
    config.steps = args.steps or (600 if is_small else 1_666_667)
    config.batch_size = 32 if is_small else 30
    config.objectives.sync = 1.0
    towers = dict(video=video, audio=audio)
    scale = 1 / 0.07 if is_small else 10.0
    set_group(
        config,
        "model",
        dict(kind="two_tower", embed_dim=width, logit_scale_init=scale, max_logit_scale=100.0, **towers),
    )
    config.loss.sync_shifts, config.loss.sync_windows = shifts, windows

    if is_small:
        config.data.train, config.data.eval = "bouncing", "bouncing/test"
    else:
        config.data.caption_keys = "none"
    config.data.mean_std = "siglip" if is_small else "imagenet"
    config.data.train_resize = "squash"  # the whole frame: what is heard may be seen at its edge
    config.data.flip = not is_small
    config.data.audio.sample_rate = 8000 if is_small else 0
    config.data.video.rate, config.data.video.stride = rate, 1

    config.optimizer.grad_clip = 1.0
    if is_small:
        config.precision = "float32"  # CPUs are slow in bfloat16
        config.optimizer.learning_rate = 4e-3
        config.optimizer.weight_decay = 0.05
        config.schedule.warmup = config.steps // 10
        config.checkpoint.every = config.steps
        config.eval.every = 0
        config.eval.batch_size = 100
        config.eval.synchronization.windows = 16
        config.log.every = 20
    else:
        config.optimizer.learning_rate = 1e-4
        config.optimizer.weight_decay = 0.05
        config.schedule.warmup = 10_000
        config.eval.batch_size = 16
        config.eval.synchronization.windows = 26
    return config
