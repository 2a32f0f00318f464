"""CoCa (arXiv:2205.01917): contrast and captions from one model.

Command:
  python train.py --config=configs/coca.py --workdir=runs/coca
  python train.py --config=configs/coca.py:variant=coca-B/32 --workdir=runs/coca --config.data.train=pairs:captions.tsv
Recipe: weights {itc: 1, caption: 2}. On drawn scenes, with both weights 1, open_clip's layout at small size: a ViT of 4
  layers, pooled by 17 queries of which one is for contrast, a text tower and a multimodal decoder of 2 layers each,
  from scratch. caption=0 trains the same towers for contrast alone, to compare with. variant=tiny-coca is smaller
  still, for a trial.
Sizes for data of your own: variant=coca-B/32 | coca-L/14 are open_clip's models, with its recipe for LAION-2B: 13e9
  pairs in batches of 90,112, AdamW (0.9, 0.98, 1e-6), 1e-3, weight decay 0.1, 10,000 steps of warm-up, texts of 76
  tokens of CLIP's vocabulary. Captions are written as there: 30 tokens at most, 6 beams.
Hardware and time: two cores of a shared 2.5 GHz Xeon, 4.5 minutes of training at 190 pairs/s (caption=0: 320 pairs/s).
  coca-B/32 and coca-L/14 have not been run.
Expected: of three seeds, R@1 among 1,000 held-out scenes 94.3 to 95.3 % text to image and 94.0 to 95.6 % image to text,
  0.5 and 0.3 points below the mean of caption=0; BLEU-4 72.9 to 83.2, 12 to 36 % of the captions exactly right.
"""

from mmjax.config import base_config, parse_arg
from mmjax.config.toy_presets import apply_toy_scene_recipe
from mmjax.errors import validate_choice

SMALL = ("small-coca", "tiny-coca")
PUBLISHED = ("coca-B/32", "coca-L/14")


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small-coca", steps=0, caption=-1.0)  # steps=0, caption=-1: the recipe's own
    validate_choice("variant", args.variant, SMALL + PUBLISHED)
    config = base_config(args.variant)
    config.name = "coca"
    config.objectives.itc = 1.0
    config.objectives.caption = args.caption if args.caption >= 0 else 1.0 if args.variant in SMALL else 2.0
    if args.variant in SMALL:
        apply_toy_scene_recipe(config, steps=args.steps or 400)
        return config
    config.name = args.variant
    config.model.init = "open_clip"
    config.batch_size = 90_112
    config.steps = args.steps or 13_000_000_000 // 90_112
    config.loss.impl = "ring"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.decay = ("open_clip",)
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.schedule.warmup = min(10_000, config.steps // 10)
    config.data.tokenizer = "clip"
    config.data.context_length = 76
    config.data.mean_std = "clip"
    config.data.workers = 8
    config.eval.every = 5000
    config.decoding.method = "beam"
    config.decoding.beams = 6
    config.decoding.min_tokens = 5
    config.decoding.max_tokens = 30
    return config
