"""CLAP (arXiv:2211.06687): a tower of sounds and one of texts in one space.

Command:
  python train.py --config=configs/clap.py --workdir=runs/clap
  python eval.py --workdir=runs/clap
  python train.py --config=configs/clap.py:variant=whisper-base --workdir=runs/clap-whisper \
      --config.init_from=FOLDER --config.data.train='wds:clap/{00000..00999}.tar' \
      --config.data.eval=pairs:audiocaps/test.csv,images=audiocaps/{youtube_id}.flac
Data: `tones`, two to four of 40 invented words a sound, and what is said; texts of the test split are never trained
  on.
Sizes: variant=whisper-tiny | whisper-base | whisper-small take the encoder of Whisper for thirty seconds, as
  open_clip's CLAP-Whisper does, and CLIP's text tower, one of those that the paper compares. `init_from` names a folder
  of transformers (or hf-hub:openai/whisper-base) with the Whisper, whose encoder is taken; without it all is fresh.
Recipe: CLIP's loss; for the sizes LAION's script of its largest data: Adam without weight decay, 1e-4, 3,200 steps of
  warm-up, 45 epochs of 688,526 sounds (LAION-Audio-630K, AudioCaps, Clotho) in batches of 2,304, on the Whisper's
  spectrograms. docs/recipes-sources.md has every field, and what LAION's own model, HTSAT, is here.
Hardware and time: two cores of a shared 2.5 GHz Xeon, on which other work ran: 7 minutes of training. The sizes need
  GPUs or a TPU; mmjax has run a small copy of one alone.
Expected: among 1,000 held-out texts, all different (chance 0.1 %): R@1 73.2 % and R@10 99.7 % from sound to text,
  70.8 % and 99.4 % back. ESC-50 and the like by class names: docs/evaluation.md.
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.errors import validate_choice

LAYERS = dict(width=96, heads=4, mlp_dim=192, depth=2, activation="gelu_tanh", norm_eps=1e-6, scan=False)
# Width, depth and heads of Whisper's encoders.
WHISPER = {"whisper-tiny": (384, 4, 6), "whisper-base": (512, 6, 8), "whisper-small": (768, 12, 12)}
BATCH, EPOCH, EPOCHS = 2304, 633_526 + 55_000, 45


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small", steps=0)  # 0: the variant's own
    variant = validate_choice("variant", args.variant, ("small", *WHISPER))
    return small(args.steps or 250) if variant == "small" else published(variant, args.steps or EPOCHS * EPOCH // BATCH)


def small(steps: int):
    """A tower that two cores train in minutes, on embedded data."""
    config = base_config("tiny")
    config.variant = config.name = "clap"
    config.steps = steps
    config.batch_size = 128
    config.objectives.itc = 1.0
    config.precision = "float32"  # CPUs are slow in bfloat16
    audio = dict(LAYERS, class_token=False, frames=192, mel_bins=40, patch_size=(6, 40))
    text = dict(LAYERS, vocab_size=64, context_length=8, causal=False, mask_padding=True)
    text |= dict(eos_id=2, pool="mean", projection="linear")
    set_group(config, "model", dict(kind="two_tower", embed_dim=64, max_logit_scale=100.0, audio=audio, text=text))

    config.data.train = "tones"
    config.data.eval = "tones/test"
    config.data.tokenizer = "words:tones"
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


def published(variant: str, steps: int):
    """Whisper's encoder and CLIP's text tower, by LAION's recipe."""
    config = base_config("B/32")  # whose text tower it is
    config.variant = variant
    config.name = f"clap {variant}"
    config.steps = steps
    config.batch_size = BATCH
    config.objectives.itc = 1.0
    width, depth, heads = WHISPER[variant]
    audio = dict(kind="whisper", width=width, depth=depth, heads=heads, mlp_dim=4 * width, activation="gelu")
    audio |= dict(frames=3000, mel_bins=80, pool="mean", projection="bias")
    text = config.model.text.to_dict()
    set_group(config, "model", dict(kind="two_tower", embed_dim=512, max_logit_scale=100.0, audio=audio, text=text))
    config.init_paths = ("audio/.*",)

    config.optimizer.learning_rate = 1e-4
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.0
    config.schedule.warmup = min(3200, steps // 4)
    config.data.audio.preset = "whisper"
    config.data.workers = 8
    config.checkpoint.every = 1000
    config.eval.every = 1000
    return config
