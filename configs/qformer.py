"""Q-Former (BLIP-2's first stage, arXiv:2301.12597): learned queries between a frozen image tower and text.

Command:
  python train.py --config=configs/quickstart.py --workdir=runs/quickstart
  python train.py --config=configs/qformer.py --workdir=runs/qformer --config.init_from=runs/quickstart
Recipe: weights {itc: 1, itm: 1, caption: 1}; the image tower comes from `init_from` and is locked. On drawn scenes, the
  tower of the quickstart, 8 queries and 2 layers 96 wide, of which one looks at the image. qformer-B is BLIP-2's for
  data of your own.
Hardware and time: TIME
Expected: EXPECTED
"""

from mmjax.config import base_config, parse_arg
from mmjax.recipes import on_scenes


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small-qformer", steps=400)
    config = base_config(args.variant)
    config.name = "qformer"
    config.objectives.itc = 1.0
    config.objectives.itm = 1.0
    config.objectives.caption = 1.0
    config.init_paths = ("image/.*",)
    config.optimizer.freeze = ("image/.*",)
    if args.variant.startswith("small"):
        config.model.image.update(pre_norm=True, patch_bias=False, norm_eps=1e-5)  # as the quickstart's tower
        on_scenes(config, steps=args.steps, scan=True)
        return config
    config.steps = args.steps
    config.batch_size = 1680
    config.optimizer.learning_rate = 1e-4
    config.optimizer.weight_decay = 0.05
    config.loss.label_smoothing = 0.1
    config.data.tokenizer = "json:tokenizer.json"
    config.data.workers = 8
    return config
