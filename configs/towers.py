"""CLIP of videos, or of sounds: a tower of either and one of texts in one space.

Command:
  python train.py --config=configs/towers.py:slot=video --workdir=runs/video-text
  python train.py --config=configs/towers.py:slot=audio --workdir=runs/audio-text
  python eval.py --workdir=runs/video-text
Recipe: CLIP's loss. `slot=video`: tubelets of the moving scenes of `moving` and what is said of them; `slot=audio`:
  spectrograms of the spoken-like sounds of `tones` and their transcripts. Texts of the test split are never trained on.
  Another size or encoder of either is one group of the config: docs/media.md.
Hardware and time: two cores of a shared 2.5 GHz Xeon, on which other work ran: 10 minutes of training for videos, 7 for
  sounds.
Expected: among 1,000 held-out texts, all different: videos R@1 26.7 % and R@10 97.3 % to text, 25.3 % and 98.0 % back
  (among 100, R@1 80 %); sounds R@1 73.2 % and R@10 99.7 % to text, 70.8 % and 99.4 % back (among 100, R@1 95 %).
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.errors import validate_choice

LAYERS = dict(width=96, heads=4, mlp_dim=192, depth=2, activation="gelu_tanh", norm_eps=1e-6, scan=False)
SLOTS = {
    "video": dict(LAYERS, class_token=False, frames=8, image_size=32, patch_size=8, tubelet_frames=2),
    "audio": dict(LAYERS, class_token=False, frames=192, mel_bins=40, patch_size=(6, 40)),
}
# Source, tokens of the longest text, words that its tokenizer has room for, steps.
DATA = {"video": ("moving", 20, 128, 400), "audio": ("tones", 8, 64, 250)}


def get_config(arg: str = ""):
    args = parse_arg(arg, slot="video", steps=0)  # 0: the slot's own
    slot = validate_choice("slot", args.slot, SLOTS)
    source, length, words, steps = DATA[slot]
    steps = args.steps or steps
    config = base_config("tiny")
    config.variant = f"{slot}-text"
    config.name = config.variant
    config.steps = steps
    config.batch_size = 128
    config.objectives.itc = 1.0
    config.precision = "float32"  # CPUs are slow in bfloat16
    text = dict(
        LAYERS,
        vocab_size=words,
        context_length=length,
        causal=False,
        mask_padding=True,
        eos_id=2,
        pool="mean",
        projection="linear",
    )
    towers = {slot: SLOTS[slot], "text": text}
    set_group(config, "model", dict(kind="two_tower", embed_dim=64, max_logit_scale=100.0, **towers))

    config.data.train = source
    config.data.eval = f"{source}/test"
    config.data.tokenizer = f"words:{source}"
    if slot == "video":
        config.data.mean_std = "siglip"
        config.data.train_resize = "squash"  # the whole frame; a crop would move the walls
    else:
        config.data.audio.sample_rate = 8000

    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = steps // 10
    config.checkpoint.every = steps
    config.eval.every = 0
    config.eval.batch_size = 200
    config.log.every = 20
    return config
