"""Image captioning: a ViT and a decoder that looks at its tokens, a transformer or an LSTM.

Command:
  python train.py --config=configs/captioner.py --workdir=runs/captioner
  python train.py --config=configs/captioner.py:decoder=lstm --workdir=runs/captioner-lstm
  python eval.py --workdir=runs/captioner --config.decoding.method=beam
Recipe: on drawn scenes, a ViT of 4 layers over 16 patches and a decoder 96 wide with two layers (one, for the LSTM of
  Show, Attend and Tell, arXiv:1502.03044), from scratch. variant=captioner-B/16 (ViT-B/16 and GPT-2's shape) and
  blip-B/16 are for data of your own: AdamW, 2e-5 as BLIP's fine-tuning, label smoothing 0.1.
Hardware and time: TIME
Expected: EXPECTED
"""

from mmjax.config import base_config, parse_arg
from mmjax.recipes import on_scenes


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small", decoder="transformer", steps=550)
    names = {"transformer": "small-captioner", "lstm": "small-captioner-lstm"}
    config = base_config(names.get(args.decoder, args.decoder) if args.variant == "small" else args.variant)
    config.name = f"captioner, {args.decoder}"
    config.objectives.caption = 1.0
    if args.variant == "small":
        on_scenes(config, steps=args.steps)
        return config
    config.steps = args.steps
    config.batch_size = 256
    config.loss.label_smoothing = 0.1
    config.optimizer.learning_rate = 2e-5
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.05
    config.schedule.warmup = args.steps // 20
    config.data.mean_std = "imagenet"
    config.data.crop_scale = (0.5, 1.0)
    config.decoding.method = "beam"
    config.decoding.beams = 3
    config.decoding.min_tokens = 5
    return config
