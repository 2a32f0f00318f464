"""LiT (arXiv:2111.07991): a new text tower learns to read a locked, pretrained image tower.

Command:
  python train.py --config=configs/lit.py:variant=B/32 --workdir=runs/lit --config.init_from=runs/clip-b32 \
      --config.data.train=pairs:captions.tsv
What is locked: the image tower and its projection; they leave differentiation, the clipping norm and the optimizer
  state. Their weights come from `init_from`: a mmjax workdir, or weights of OpenCLIP, Hugging Face or big_vision, with
  the same image tower. big_vision's file starts the text tower from BERT; here it is drawn as big_vision draws others.
  tower=dinov2-B/14 (S, L, g) takes DINOv2's image tower in place of the variant's, from transformers' folder or
  hf-hub:facebook/dinov2-base; its class token is the embedding, without a projection. image_size=224 (a multiple of
  14): the positions, which are for 518 pixels, are resampled. mmjax convert --to=openclip writes the result.
Recipe: big_vision's siglip_lit_coco.py: sigmoid loss with scale 10 and bias -2.71, learning rate 1e-3, weight decay
  0.01 by its convention, gradients clipped at 1, batch 512, 5,000 steps, 3 % of them to warm up; lengthen for more
  data. Images are squashed to a square, mirrored half of the time and go through its RandAugment. loss=softmax is
  lit_coco.py, the LiT paper's: no bias, batch 4,096. docs/recipes-sources.md has every field.
Hardware and time: one GPU or one TPU host; not timed here.
Expected: depends on the image tower. mmjax has run it at toy size only.
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.errors import UserError, validate_choice
from mmjax.models.variants.two_tower import VARIANTS, dinov2

LOSSES = ("sigmoid", "softmax")


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="B/32", loss="sigmoid", tower="", image_size=224)
    config = base_config(validate_choice("variant", args.variant, VARIANTS))
    config.name = f"lit {args.tower or args.variant}"
    is_dinov2 = args.tower.startswith("dinov2-")
    if args.tower and not is_dinov2:
        raise UserError(f"tower={args.tower!r}: write dinov2-S/14, -B/14, -L/14 or -g/14, or leave it out")
    if is_dinov2:
        image = dinov2(args.tower.removeprefix("dinov2-"), args.image_size)
        set_group(config, "model.image", image)
        config.model.embed_dim = image["width"]
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

    locked = ("image/.*",) if is_dinov2 else ("image/.*", "image_head/.*")
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
    config.data.mean_std = "imagenet" if is_dinov2 else "siglip" if "siglip" in args.variant else "clip"
    config.data.resize = config.data.train_resize = "squash"
    config.data.interpolation = "bilinear"
    config.data.flip = True
    config.data.randaugment = (2, 10)
    config.data.randaugment_policy = "big_vision"
    config.data.workers = 4
    config.checkpoint.every = 1000
    config.eval.every = 1000
    return config
