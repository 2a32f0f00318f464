"""Fine-tuning of any checkpoint that mmjax reads: its model, tokenizer and way to prepare images, on data of yours.

Command:
  python train.py --config=configs/finetune.py:model=openai-clip-L14 --workdir=runs/finetuned \
      --config.data.train=pairs:captions.tsv
  python train.py --config=configs/finetune.py:model=llava-1.5-7b-hf,lora=16 --workdir=runs/llava \
      --config.data.train=vqa:instructions.jsonl
  python train.py --config=configs/finetune.py:model=blip-image-captioning-base --workdir=runs/blip \
      --config.data.train=pairs:captions.tsv
Recipe: the checkpoint's own objective, AdamW at 1e-5 without weight decay, 5 % of the steps to warm up, half a cosine
  down to 0; with `lora=RANK` adapters alone at 2e-4. Training crops a little at random, but not where questions are
  answered. A run's workdir, OpenCLIP's, Hugging Face's and big_vision's files and folders, and hf-hub:NAME are
  checkpoints.
Hardware and time: as of the model; half of full training's memory with `lora`.
Expected: depends on model and data.
"""

from mmjax.config import parse_arg
from mmjax.errors import UserError


def get_config(arg: str = ""):
    # steps and batch: examples seen are their product; lora: rank of the adapters, 0 for full training.
    args = parse_arg(arg, model="", steps=1000, batch=64, lora=0)
    if not args.model:
        raise UserError("model='' names no checkpoint; write configs/finetune.py:model=PATH")
    from mmjax.inference.checkpoint_config import config_of_checkpoint  # which imports jax

    config = config_of_checkpoint(args.model)
    config.name = f"finetune {config.name}"
    if config.data.texts != "captions":  # what is asked for may be anywhere
        config.data.train_resize = {"crop": "center", "squash": "squash"}[config.data.resize]
    config.steps = args.steps
    config.batch_size = args.batch
    config.optimizer.learning_rate = 2e-4 if args.lora else 1e-5
    config.optimizer.weight_decay = 0.0
    config.optimizer.lora.rank = args.lora
    config.optimizer.lora.alpha = float(2 * args.lora or config.optimizer.lora.alpha)
    config.schedule.warmup = -(-args.steps // 20)
    config.eval.every = args.steps
    return config
