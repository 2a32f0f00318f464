"""SigLIP (arXiv:2303.15343): a sigmoid loss for every pair of the batch, and attention pooling.

Command:
  python train.py --config=configs/siglip.py:variant=B/16,tokenizer=c4_en.model --workdir=runs/siglip-b16 \
      --config.data.train=pairs:captions.tsv
Sizes: variant=B/16 | L/16 | So400m/14 (and tiny, for a trial).
Tokenizer: SigLIP's is the SentencePiece model c4_en with 32,000 ids (pip install "mmjax[sentencepiece]"); give its
  file.
Recipe: the paper's as far as it is public: batch 32,768, learning rate 1e-3, Adam's b2 0.95, weight decay 1e-4, 20,000
  steps of warm-up, cosine to zero, 40e9 examples, scale 10 and bias -10 at the start, images squashed to a square in
  training as in evaluation, by big_vision's bilinear filter but with antialiasing, which it asks of new configs; its
  own `resize(224)` takes the four nearest pixels: --config.data.antialias=False.
  Parameters start as big_vision's. So are decay and warm-up: kernels alone decay, by 1e-4 a step at the peak, whatever
  the learning rate. The scale has no limit.
Hardware and time: the model cards say 16 TPU v4 chips for 3 days. mmjax has not been timed on a pod.
Expected: ImageNet zero-shot top-1 76.0 % for B/16 is Google's on WebLI, which is not public. mmjax has run this at toy
  size only.
"""

from mmjax.config import base_config, parse_arg
from mmjax.errors import validate_choice

SIZES = {
    "B/16": "siglip-B/16",
    "L/16": "siglip-L/16",
    "So400m/14": "siglip-So400m/14",
    "tiny": "tiny-siglip",
}


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="B/16", tokenizer="c4_en.model")
    config = base_config(SIZES[validate_choice("variant", args.variant, SIZES)])
    config.name = f"siglip {args.variant}"
    config.model.init = "big_vision"
    config.objectives.sigmoid = 1.0
    config.batch_size = 32_768
    config.steps = 40_000_000_000 // 32_768

    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay = ("big_vision",)
    config.optimizer.decay_scaled_by_lr = False
    config.optimizer.b2 = 0.95
    config.optimizer.eps = 1e-8
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = 20_000
    config.schedule.from_zero = True

    config.data.tokenizer = f"sentencepiece:{args.tokenizer}"
    config.data.mean_std = "siglip"
    config.data.resize = "squash"
    config.data.train_resize = "squash"
    config.data.interpolation = "bilinear"  # big_vision's; Hugging Face and OpenCLIP evaluate with bicubic
    config.data.workers = 8
    config.checkpoint.every = 1000
    config.eval.every = 5000
    config.eval.batch_size = 1024
    return config
