"""CoCa (arXiv:2205.01917): contrast and captions from one model.

Command:
  python train.py --config=configs/coca.py --workdir=runs/coca
  python train.py --config=configs/coca.py:variant=coca-B/32 --workdir=runs/coca --config.data.train=pairs:captions.tsv
Recipe: weights {itc: 1, caption: 2}. On drawn scenes, open_clip's layout at small size: a ViT of 4 layers, pooled by 17
  queries of which one is for contrast, a text tower and a multimodal decoder of 2 layers each, from scratch. caption=0
  trains the same towers for contrast alone, to compare with. coca-B/32 and coca-L/14 are open_clip's models for data of
  your own, with its published recipe for LAION-2B: batch 90,112, AdamW 1e-3, weight decay 0.1.
Hardware and time: TIME
Expected: EXPECTED
"""

from mmjax.config import base_config, parse_arg
from mmjax.recipes import on_scenes


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small-coca", steps=400, caption=2.0)
    config = base_config(args.variant)
    config.name = "coca"
    config.objectives.itc = 1.0
    config.objectives.caption = args.caption
    if args.variant.startswith("small"):
        on_scenes(config, steps=args.steps)
        config.eval.batch_size = 250
        return config
    config.steps = args.steps
    config.batch_size = 90_112
    config.loss.impl = "ring"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.1
    config.schedule.warmup = 10_000
    config.data.tokenizer = "clip"
    config.data.workers = 8
    return config
