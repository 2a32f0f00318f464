"""Q-Former (BLIP-2's first stage, arXiv:2301.12597): learned queries between a frozen image tower and text.

Command:
  python train.py --config=configs/quickstart.py --workdir=runs/quickstart
  python train.py --config=configs/qformer.py --workdir=runs/qformer --config.init_from=runs/quickstart
  python train.py --config=configs/qformer.py:variant=qformer-B,tokenizer=json:bert-base-uncased/tokenizer.json \
      --workdir=runs/qformer --config.init_from=runs/tower --config.data.train=pairs:captions.tsv
Recipe: weights {itc: 1, itm: 1, caption: 1}; the image tower comes from `init_from` and is locked. On drawn scenes, the
  tower of the quickstart, 8 queries and 2 layers 96 wide, of which one looks at the image;
  variant=tiny-qformer is smaller still, for a trial without `init_from`.
Size for data of your own: variant=qformer-B is BLIP-2's, over an image tower of ViT-g's shape, with BERT's
  tokenizer.json (Hugging Face: bert-base-uncased): 250,000 steps of 1,680 pairs, AdamW (0.9, 0.98), 1e-4 after 2,000
  steps of warm-up, weight decay 0.05, smoothing 0.1 of contrast and captions, texts of 32 tokens, random crops and
  flips. BLIP-2's Q-Former starts from BERT; this one from scratch, its queries' MLPs as copies of the text's.
Hardware and time: two cores of a shared 2.5 GHz Xeon, 14 minutes of training at 31 pairs/s beside other runs, after
  two of compiling. qformer-B has not been run.
Expected: matching 95.1 % on negatives drawn by similarity among 128 held-out pairs, 74.4 % on the most similar of
  1,000; R@1 85.6 % text to image and 85.5 % image to text; captions BLEU-4 51.0, 7.7 % exactly right.
"""

from mmjax.config import base_config, parse_arg
from mmjax.config.toy_presets import apply_toy_scene_recipe, refuse_unused
from mmjax.errors import validate_choice

SMALL = ("small-qformer", "tiny-qformer")
PUBLISHED = ("qformer-B",)


def get_config(arg: str = ""):
    # steps=0, tokenizer='': the recipe's own.
    args = parse_arg(arg, variant="small-qformer", steps=0, tokenizer="")
    validate_choice("variant", args.variant, SMALL + PUBLISHED)
    config = base_config(args.variant)
    config.name = "qformer"
    config.objectives.itc = 1.0
    config.objectives.itm = 1.0
    config.objectives.caption = 1.0
    config.init_paths = ("image/.*",)
    config.optimizer.freeze = ("image/.*",)
    if args.variant in SMALL:
        refuse_unused(args, f"variant={args.variant}", "tokenizer")
        config.model.image.update(pre_norm=True, patch_bias=False, norm_eps=1e-5)  # as the quickstart's tower
        apply_toy_scene_recipe(config, steps=args.steps or 200)
        return config
    config.name = args.variant
    config.model.init = "blip2"
    config.batch_size = 1680
    config.steps = args.steps or 250_000
    config.model.text.dropout = 0.1
    config.model.max_logit_scale = None  # LAVIS has no limit
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay = ("open_clip",)
    config.schedule.warmup = min(2000, config.steps // 10)
    config.schedule.final = 0.1
    config.loss.label_smoothing = 0.1
    config.loss.contrastive_smoothing = 0.1
    config.data.tokenizer = args.tokenizer or "json:bert-base-uncased/tokenizer.json"
    config.data.context_length = 32
    config.data.mean_std = "clip"
    config.data.resize = "squash"
    config.data.crop_scale = (0.5, 1.0)
    config.data.flip = True
    config.data.workers = 8
    config.eval.every = 5000
    config.decoding.method = "beam"
    config.decoding.beams = 3
    config.decoding.min_tokens = 9  # LAVIS's 10 and 30 count the first, [DEC]
    config.decoding.max_tokens = 29
    return config
