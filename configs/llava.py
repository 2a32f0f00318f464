"""LLaVA's and PaliGemma's pattern: image tokens, projected, before the words of a decoder, which writes the answer.

Command:
  python train.py --config=configs/quickstart.py --workdir=runs/quickstart
  python train.py --config=configs/llava.py --workdir=runs/llava --config.init_from=runs/quickstart
Recipe: the answer's tokens alone are predicted. On questions about drawn scenes, the image tower of the quickstart,
  locked, a projection of two layers and a decoder of 2 layers, 96 wide, from scratch; image and question see each
  other (PaliGemma's prefix). prefix_lm-L/14 is for data of your own.
Hardware and time: TIME
Expected: EXPECTED
"""

from mmjax.config import base_config, parse_arg
from mmjax.recipes import on_scenes


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small-prefix_lm", steps=600)
    config = base_config(args.variant)
    config.name = "llava"
    config.objectives.caption = 1.0
    config.data.texts = "answers"
    config.init_paths = ("image/.*",)
    config.optimizer.freeze = ("image/.*",)
    if args.variant.startswith("small"):
        config.model.image.update(pre_norm=True, patch_bias=False, norm_eps=1e-5)  # as the quickstart's tower
        config.model.text.sep_id = 5
        config.model.prefix_text = True
        on_scenes(config, steps=args.steps, data="questions")
        return config
    config.steps = args.steps
    config.batch_size = 256
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    config.data.workers = 8
    return config
