"""LLaVA's and PaliGemma's pattern: image tokens, projected, before the words of a decoder, which writes the answer.

Command:
  python train.py --config=configs/quickstart.py --workdir=runs/quickstart
  python train.py --config=configs/llava.py --workdir=runs/llava --config.init_from=runs/quickstart
  python train.py --config=configs/llava.py:variant=prefix_lm-L/14,tokenizer=json+bos:gpt2/tokenizer.json \
      --workdir=runs/llava --config.init_from=openai-clip-L14 --config.data.train=vqa:instructions.jsonl
Recipe: the answer's tokens alone are predicted. On questions about drawn scenes, the image tower of the quickstart,
  locked, a projection of two layers and a decoder of 2 layers, 96 wide, from scratch; image and question see each
  other (PaliGemma's prefix). variant=tiny-prefix_lm is smaller still, for a trial without `init_from`.
Size for data of your own: variant=prefix_lm-L/14 is LLaVA's layout: OpenAI's CLIP L/14 (`init_from`: its files in any
  format), locked, its last layer but one, and a decoder of GPT-2's shape from scratch, with GPT-2's tokenizer.json
  (Hugging Face: gpt2). As LLaVA-1.5's first stage: 558,128 examples, once, in batches of 256, AdamW 1e-3 without weight
  decay, 3 % of the steps to warm up (LLaVA's decoder is a trained one). Its second goes on from that run with
  steps=5197, `--config.batch_size=128 --config.optimizer.learning_rate=2e-5 --config.init_paths=.*`.
Hardware and time: two cores of a shared 2.5 GHz Xeon, 7 minutes of training at 190 questions/s beside other runs.
  prefix_lm-L/14 has not been run.
Expected: 61.2 % VQA accuracy on 2,000 held-out questions (yes/no 50.2 %, number 79.0 %, other 61.2 %).
"""

from mmjax.config import base_config, parse_arg
from mmjax.config.toy_presets import apply_toy_scene_recipe, refuse_unused
from mmjax.errors import validate_choice

SMALL = ("small-prefix_lm", "tiny-prefix_lm")
PUBLISHED = ("prefix_lm-L/14",)


def get_config(arg: str = ""):
    # steps=0, tokenizer='': the recipe's own.
    args = parse_arg(arg, variant="small-prefix_lm", steps=0, tokenizer="")
    validate_choice("variant", args.variant, SMALL + PUBLISHED)
    config = base_config(args.variant)
    config.name = "llava"
    config.objectives.caption = 1.0
    config.data.texts = "answers"
    config.init_paths = ("image/.*",)
    config.optimizer.freeze = ("image/.*",)
    if args.variant in SMALL:
        refuse_unused(args, f"variant={args.variant}", "tokenizer")
        config.model.image.update(pre_norm=True, patch_bias=False, norm_eps=1e-5)  # as the quickstart's tower
        config.model.text.sep_id = 5
        config.model.prefix_text = True
        apply_toy_scene_recipe(config, steps=args.steps or 600, data="questions")
        return config
    config.model.init = "llava"
    config.batch_size = 256
    config.steps = args.steps or 558_128 // 256
    config.optimizer.learning_rate = 1e-3
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.0
    config.schedule.warmup = -(-3 * config.steps // 100)  # rounded up, and from zero: transformers' Trainer
    config.schedule.from_zero = True
    config.data.tokenizer = args.tokenizer or "json+bos:gpt2/tokenizer.json"
    config.data.context_length = 256
    config.data.mean_std = "clip"
    config.data.train_resize = "center"  # as CLIP's processor
    config.data.workers = 8
    config.decoding.max_tokens = 128
    return config
