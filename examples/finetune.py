"""A CLIP or SigLIP fine-tuned on one GPU, from weights of OpenCLIP, OpenAI, Hugging Face or big_vision, or of a run.

Command:
  mmjax train --config=examples/finetune.py:weights=FOLDER --workdir=runs/tuned \
      --config.data.train=pairs:captions.tsv --config.data.eval=folder:val
Recipe: the model, the tokenizer and how images are prepared are the weights'. AdamW with a small rate that is smaller
  still for lower layers, and gradients clipped at 1: what was learned before should change little. 1,000 steps of 256
  pairs; all towers are trained (`--config.optimizer.freeze='("image/.*",)'` locks one).
Expected: docs/examples.md has what a small CLIP gained and lost, and the memory that published sizes need.
"""

from mmjax.config import parse_arg
from mmjax.errors import UserError
from mmjax.inference.checkpoint_config import config_of_checkpoint


def get_config(arg: str = ""):
    args = parse_arg(arg, weights="", steps=1000, batch=256, lr=1e-5)
    if not args.weights:
        raise UserError("weights is missing; name what to start from: --config=examples/finetune.py:weights=FOLDER")
    config = config_of_checkpoint(args.weights)
    config.name = "finetune"
    config.steps, config.batch_size = args.steps, args.batch
    config.optimizer.learning_rate = args.lr
    config.optimizer.layer_decay.update(image=0.8, text=0.8)
    config.optimizer.weight_decay = 0.1
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = args.steps // 10
    config.data.crop_scale = (0.9, 1.0)
    config.data.workers = 8
    config.eval.every = config.checkpoint.every = -(-args.steps // 4)
    return config
