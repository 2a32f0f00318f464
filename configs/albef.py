"""ALBEF (arXiv:2107.07651) without its momentum queue: contrast, matching on hard negatives, masked words.

Command:
  python train.py --config=configs/albef.py --workdir=runs/albef
  python train.py --config=configs/albef.py:variant=albef-B --workdir=runs/albef --config.data.train=pairs:captions.tsv
Recipe: weights {itc: 1, itm: 1, mlm: 1}; negatives for matching are drawn from the whole batch by their contrastive
  similarity. On drawn scenes, a ViT of 4 layers, a text tower of 2 and 2 layers that fuse, from scratch. albef-B is
  the published model for data of your own (tokenizer: BERT's tokenizer.json): AdamW 1e-4, weight decay 0.02, a batch
  of 512 as published; a larger one stands in for the queue.
Hardware and time: TIME
Expected: EXPECTED
"""

from mmjax.config import base_config, parse_arg
from mmjax.recipes import on_scenes


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small-albef", steps=220)
    config = base_config(args.variant)
    config.name = "albef"
    config.objectives.itc = 1.0
    config.objectives.itm = 1.0
    config.objectives.mlm = 1.0
    if args.variant.startswith("small"):
        on_scenes(config, steps=args.steps, scan=True)
        return config
    config.steps = args.steps
    config.batch_size = 512
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.02
    config.data.tokenizer = "json:tokenizer.json"
    config.data.crop_scale = (0.5, 1.0)
    config.data.workers = 8
    return config
