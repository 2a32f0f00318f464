"""ViLT (arXiv:2102.03334): words and patches in one stream; matching and masked words.

Command:
  python train.py --config=configs/vilt.py --workdir=runs/vilt
  python train.py --config=configs/vilt.py:variant=vilt-B/32 --workdir=runs/vilt --config.data.train=pairs:captions.tsv
Recipe: weights {itm: 1, mlm: 1}; without contrast, negatives for matching are drawn uniformly. On drawn scenes, a
  stream of 4 layers over 16 patches and a caption, from scratch; patches=1 adds the pixels of masked patches. vilt-B/32
  is the published model for data of your own (tokenizer: BERT's tokenizer.json): AdamW 1e-4, weight decay 0.01, batch
  4,096.
Hardware and time: TIME
Expected: EXPECTED
"""

from mmjax.config import base_config, parse_arg
from mmjax.recipes import on_scenes


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small-vilt", steps=600, patches=0.0)
    config = base_config(args.variant)
    config.name = "vilt"
    config.objectives.itm = 1.0
    config.objectives.mlm = 1.0
    if args.patches:
        config.model.mim = True
        config.objectives.mim = args.patches
    if args.variant.startswith("small"):
        on_scenes(config, steps=args.steps, scan=True)
        return config
    config.steps = args.steps
    config.batch_size = 4096
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.01
    config.data.tokenizer = "json:tokenizer.json"
    config.data.workers = 8
    return config
