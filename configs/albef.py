"""ALBEF (arXiv:2107.07651) without its momentum queue: contrast, matching on hard negatives, masked words.

Command:
  python train.py --config=configs/albef.py --workdir=runs/albef
  python train.py --config=configs/albef.py:variant=albef-B,tokenizer=json:bert-base-uncased/tokenizer.json \
      --workdir=runs/albef --config.data.train=pairs:captions.tsv
Recipe: weights {itc: 1, itm: 1, mlm: 1}; negatives for matching are drawn from the whole batch by their contrastive
  similarity. On drawn scenes, a ViT of 4 layers, a text tower of 2 and 2 layers that fuse, from scratch;
  variant=tiny-albef is smaller still, for a trial.
Size for data of your own: variant=albef-B is the published model, with BERT's tokenizer.json (Hugging Face:
  bert-base-uncased): 30 epochs of 5.1M pairs in batches of 512, AdamW 1e-4, falling to 1e-5, weight decay 0.02, texts
  of 25 tokens, crops of 20-100 % of the area, its RandAugment. A larger batch stands in for the queue. The published
  one starts from DeiT and BERT; this one from scratch, or `init_from`.
Hardware and time: two cores of a shared 2.5 GHz Xeon, 4.5 minutes of training at 106 pairs/s. albef-B has not been run.
Expected: matching 95.0 % on negatives drawn by similarity among 128 held-out pairs, 74.8 % on the most similar of
  1,000; R@1 84.1 % text to image and 83.6 % image to text; 87.1 % of masked words.
"""

from mmjax.config import base_config, parse_arg
from mmjax.config.toy_presets import apply_toy_scene_recipe, refuse_unused
from mmjax.errors import validate_choice

SMALL = ("small-albef", "tiny-albef")
PUBLISHED = ("albef-B",)


def get_config(arg: str = ""):
    # steps=0, tokenizer='': the recipe's own.
    args = parse_arg(arg, variant="small-albef", steps=0, tokenizer="")
    validate_choice("variant", args.variant, SMALL + PUBLISHED)
    config = base_config(args.variant)
    config.name = "albef"
    config.objectives.itc = 1.0
    config.objectives.itm = 1.0
    config.objectives.mlm = 1.0
    if args.variant in SMALL:
        refuse_unused(args, f"variant={args.variant}", "tokenizer")
        apply_toy_scene_recipe(config, steps=args.steps or 220, scan=True)
        return config
    config.name = args.variant
    config.model.init = "albef"
    config.batch_size = 512
    config.steps = args.steps or 30 * 5_100_000 // 512
    config.model.text.dropout = config.model.fusion.dropout = 0.1
    config.model.max_logit_scale = 1000.0  # temperatures from 0.001
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.02
    config.optimizer.decay = ("open_clip", "image/class_token")  # all but what has one axis there
    config.schedule.warmup = min(2000, config.steps // 10)
    config.schedule.final = 0.1
    config.data.tokenizer = args.tokenizer or "json:bert-base-uncased/tokenizer.json"
    config.data.context_length = 25
    config.data.mean_std = "clip"
    config.data.resize = "squash"
    config.data.crop_scale = (0.2, 1.0)
    config.data.flip = True
    config.data.randaugment = (2, 7)
    config.data.randaugment_policy = "albef"
    config.data.workers = 8
    config.eval.every = 5000
    return config
