"""CLIP (arXiv:2103.00020) with the published recipe, on your image-text pairs.

Command:
  python train.py --config=configs/clip.py:variant=B/32 --workdir=runs/clip-b32 --config.data.train=pairs:captions.tsv
  On one GPU, ten times through a set of 100,000 pairs: --config=configs/clip.py:variant=B/32,batch=256,pairs=1_000_000
Sizes: variant=B/32 | B/16 | L/14 | L/14@336 | H/14 (and tiny, for a trial).
Recipe: OpenAI's, which MetaCLIP and OpenCLIP keep to: 32 epochs of 400M pairs in batches of 32,768, AdamW (0.9,
  0.98, 1e-6), weight decay 0.2 of what OpenCLIP decays, 2,000 steps of warm-up, cosine to zero, bfloat16, crops of
  90-100 % of the area, no flip. Peak rate 5e-4, for L/14 4e-4 (MetaCLIP). H/14 is OpenCLIP's: 32e9 pairs in batches
  of 79,104, 5e-4. L/14@336 is one more epoch, at 2e-5: `init_from` a trained L/14 (its position table is resampled).
  Parameters start as open_clip's. docs/recipes-sources.md has every field beside its source.
Hardware and time: a pod or several nodes. OpenCLIP publishes 36 h on 128 A100 for B/32, 61 h on 176 for B/16 and 127 h
  on 400 for L/14 (LAION-400M). mmjax has not been timed on a pod.
Expected: ImageNet zero-shot top-1 62.9 % (B/32), 67.1 % (B/16), 72.8 % (L/14) are OpenCLIP's on LAION-400M with this
  recipe. mmjax has run it at toy size only (see the tests and quickstart.py).
"""

from mmjax.config import base_config, parse_arg
from mmjax.errors import validate_choice

# Batch, pairs, peak learning rate; how many devices share the parameters and optimizer state where one device could not
# hold them.
SIZES = {
    "B/32": (32_768, 32 * 400_000_000, 5e-4, 1),
    "B/16": (32_768, 32 * 400_000_000, 5e-4, 1),
    "L/14": (32_768, 32 * 400_000_000, 4e-4, 1),
    "L/14@336": (32_768, 400_000_000, 2e-5, 4),  # one more epoch of L/14
    "H/14": (79_104, 32_000_000_000, 5e-4, 8),
    "tiny": (32_768, 32 * 400_000_000, 5e-4, 1),
}


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="B/32", batch=0, pairs=0)  # 0: the published
    batch_size, pairs, learning_rate, fsdp = SIZES[validate_choice("variant", args.variant, SIZES)]
    batch_size, pairs = args.batch or batch_size, args.pairs or pairs
    config = base_config(args.variant)
    config.name = f"clip {args.variant}"
    config.model.init = "open_clip"
    config.objectives.itc = 1.0
    config.batch_size = batch_size
    config.steps = pairs // batch_size

    config.optimizer.learning_rate = learning_rate
    config.optimizer.weight_decay = 0.2
    config.optimizer.decay = ("open_clip",)
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.schedule.warmup = min(2000, config.steps // 10)
    config.mesh.fsdp = fsdp

    config.data.mean_std = "clip"
    config.data.crop_scale = (0.9, 1.0)
    config.data.workers = 8
    config.checkpoint.every = 1000
    config.eval.every = 5000
    config.eval.batch_size = 1024
    return config
