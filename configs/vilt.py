"""ViLT (arXiv:2102.03334): words and patches in one stream; matching and masked words.

Command:
  python train.py --config=configs/vilt.py --workdir=runs/vilt
  python train.py --config=configs/vilt.py:variant=vilt-B/32,tokenizer=json:bert-base-uncased/tokenizer.json \
      --workdir=runs/vilt --config.data.train=pairs:captions.tsv
Recipe: weights {itm: 1, mlm: 1}; without contrast, negatives for matching are drawn uniformly. On drawn scenes, a
  stream of 4 layers over 16 patches and a caption, from scratch; patches=1 adds the pixels of masked patches;
  variant=tiny-vilt is smaller still, for a trial.
Size for data of your own: variant=vilt-B/32 is the published model, with BERT's tokenizer.json (Hugging Face:
  bert-base-uncased): 200,000 steps of 4,096 pairs, AdamW (0.9, 0.98, 1e-8), 1e-4, falling linearly, weight decay 0.01,
  dropout 0.1, texts of 40 tokens. Images are squashed to 384 x 384 pixels, where ViLT keeps their shape; words are
  masked token by token. The published one's layers start from a ViT-B/32 of ImageNet; this one from scratch, or
  `init_from`.
Hardware and time: two cores of a shared 2.5 GHz Xeon, 9 minutes of training at 70 pairs/s beside other runs. vilt-B/32
  has not been run.
Expected: matching 99.7 % on negatives drawn uniformly, which are easy; 84.6 % of masked words.
"""

from mmjax.config import base_config, parse_arg
from mmjax.config.toy_presets import apply_toy_scene_recipe, refuse_unused
from mmjax.errors import validate_choice

SMALL = ("small-vilt", "tiny-vilt")
PUBLISHED = ("vilt-B/32",)


def get_config(arg: str = ""):
    # steps=0, tokenizer='': the recipe's own.
    args = parse_arg(arg, variant="small-vilt", steps=0, patches=0.0, tokenizer="")
    validate_choice("variant", args.variant, SMALL + PUBLISHED)
    config = base_config(args.variant)
    config.name = "vilt"
    config.objectives.itm = 1.0
    config.objectives.mlm = 1.0
    if args.patches:
        config.model.mim = True
        config.objectives.mim = args.patches
    if args.variant in SMALL:
        refuse_unused(args, f"variant={args.variant}", "tokenizer")
        apply_toy_scene_recipe(config, steps=args.steps or 300)
        return config
    config.name = args.variant
    config.model.init = "vilt"
    config.batch_size = 4096
    config.steps = args.steps or 200_000
    config.model.image.dropout = config.model.text.dropout = 0.1
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.01
    config.optimizer.decay = ("open_clip", "image/class_token")  # all but biases and norms
    config.schedule.name = "constant"
    config.schedule.warmup = min(2500, config.steps // 10)
    config.schedule.from_zero = True
    config.schedule.cooldown = config.steps - config.schedule.warmup
    config.data.tokenizer = args.tokenizer or "json:bert-base-uncased/tokenizer.json"
    config.data.context_length = 40
    config.data.mean_std = "siglip"
    config.data.resize = "squash"
    config.data.train_resize = "squash"
    config.data.workers = 8
    config.eval.every = 5000
    return config
