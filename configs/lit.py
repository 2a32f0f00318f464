"""LiT (arXiv:2111.07991): a new text tower learns to read a locked, pretrained image tower.

Command:
  python train.py --config=configs/lit.py:variant=B/32 --workdir=runs/lit --config.init_from=runs/clip-b32 \
      --config.data.train=pairs:captions.tsv
What is locked: the image tower and its projection; they leave differentiation, the clipping norm and the optimizer
  state. Their weights come from `init_from`: a mmjax workdir, or weights of OpenCLIP, Hugging Face or big_vision, with
  the same image tower. big_vision's file starts the text tower from BERT; here it is drawn as big_vision draws others.
Recipe: big_vision's siglip_lit_coco.py: sigmoid loss with scale 10 and bias -2.71, learning rate 1e-3, weight decay
  0.01 by its convention, gradients clipped at 1, batch 512, 5,000 steps, 3 % of them to warm up; lengthen for more
  data. Images are squashed to a square, mirrored half of the time and go through its RandAugment. loss=softmax is
  lit_coco.py, the LiT paper's: no bias, batch 4,096. docs/recipes-sources.md has every field.
Hardware and time: one GPU or one TPU host; not timed here.
Expected: depends on the image tower. mmjax has run it at toy size only.
"""

from mmjax.config import base_config, parse_arg
from mmjax.errors import validate_choice
from mmjax.models.variants.two_tower import VARIANTS

LOSSES = ("sigmoid", "softmax")


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="B/32", loss="sigmoid")
    config = base_config(validate_choice("variant", args.variant, VARIANTS))
    config.name = f"lit {args.variant}"
    config.model.init = "big_vision"
    config.model.logit_scale_init = 10.0
    config.model.max_logit_scale = None  # big_vision has no limit
    with config.model.ignore_type():  # CLIP's variants have no bias, SigLIP's have one
        config.model.logit_bias_init = -2.71 if validate_choice("loss", args.loss, LOSSES) == "sigmoid" else None
    if args.loss == "sigmoid":
        config.objectives.sigmoid = 1.0
        config.batch_size = 512
    else:
        config.objectives.itc = 1.0
        config.batch_size = 4096
    config.steps = 5000

    locked = ("image/.*", "image_head/.*")
    config.init_paths = locked
    config.optimizer.freeze = locked
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.decay = ("big_vision",)
    config.optimizer.decay_scaled_by_lr = False
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = 150
    config.schedule.from_zero = True

    # `decode|resize(224)|flip_lr|randaug(2,10)`; pixels are scaled as for the tower that is locked.
    config.data.mean_std = "siglip" if "siglip" in args.variant else "clip"
    config.data.resize = config.data.train_resize = "squash"
    config.data.interpolation = "bilinear"
    config.data.flip = True
    config.data.randaugment = (2, 10)
    config.data.randaugment_policy = "big_vision"
    config.data.workers = 4
    config.checkpoint.every = 1000
    config.eval.every = 1000
    return config
