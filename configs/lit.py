"""LiT (arXiv:2111.07991): a new text tower learns to read a locked, pretrained image tower.

Command:
  python train.py --config=configs/lit.py:variant=B/32 --workdir=runs/lit --config.init_from=runs/clip-b32 \
      --config.data.train=pairs:captions.tsv
What is locked: the image tower and its projection; they leave differentiation, the clipping norm and the optimizer
  state. Their weights come from `init_from`: a mmjax workdir, or weights of OpenCLIP, Hugging Face or big_vision, with
  the same image tower. big_vision's file starts the text tower from BERT; here it is drawn as big_vision draws others.
Recipe: big_vision's siglip_lit_coco.py: learning rate 1e-3, weight decay 0.01, gradients clipped at 1, batch 512, 5,000
  steps, with the softmax loss; lengthen for more data. Images are squashed to a square, half of them mirrored,
  and all changed by RandAugment (2, 10), which keeps their resizing on the host.
Hardware and time: one GPU or one TPU host; not timed here.
Expected: depends on the image tower. mmjax has run it at toy size only.
"""

from mmjax.config import base_config, parse_arg
from mmjax.errors import choose
from mmjax.models.variants import VARIANTS


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="B/32")
    config = base_config(choose("variant", args.variant, VARIANTS))
    config.name = f"lit {args.variant}"
    config.model.init = "big_vision"
    config.objectives.itc = 1.0
    config.model.max_logit_scale = None  # big_vision has no limit
    config.batch_size = 512
    config.steps = 5000

    locked = ("image/.*", "image_head/.*")
    config.init_paths = locked
    config.optimizer.freeze = locked
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.01
    config.optimizer.decay = ("big_vision",)
    config.optimizer.decay_scaled_by_lr = False
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = 500
    config.schedule.from_zero = True

    # siglip_lit_coco.py's `decode|resize(224)|flip_lr|randaug(2,10)`; numbers stay CLIP's, as the locked tower's are.
    config.data.resize = config.data.train_resize = "squash"
    config.data.flip = True
    config.data.randaugment, config.data.randaugment_policy = (2, 10), "big_vision"
    config.data.workers = 4
    config.checkpoint.every = 1000
    config.eval.every = 1000
    return config
