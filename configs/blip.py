"""BLIP's pretraining (arXiv:2201.12086) without its queue: contrast, matching on hard negatives, captions, by one BERT.

Command:
  python train.py --config=configs/blip.py --workdir=runs/blip
  python train.py --config=configs/blip.py:variant=blip-med-B/16,tokenizer=json:bert-base-uncased/tokenizer.json \
      --workdir=runs/blip --config.data.train=pairs:captions.tsv
Recipe: weights {itc: 1, itm: 1, caption: 1}; the same layers read a text alone, read it with the image, and write it,
  the last with self-attention of their own. On drawn scenes, a ViT and a BERT of 4 layers, from scratch;
  variant=tiny-blip is smaller still, for a trial.
Size for data of your own: variant=blip-med-B/16 is the published model, with BERT's tokenizer.json (Hugging Face:
  bert-base-uncased) and the ids [DEC] and [ENC] behind its vocabulary: 20 epochs of 14M pairs in batches of 2,880,
  AdamW 3e-4, weight decay 0.05, crops of 224 pixels. A larger batch stands in for the queue, and nothing for momentum
  distillation and for the captions that are made and filtered (CapFilt). The published one starts from DeiT and BERT;
  this one from scratch, or `init_from`.
Hardware and time: two cores of a shared 2.5 GHz Xeon. blip-med-B/16 has not been run.
Expected: learns on drawn scenes as `qformer` does; no numbers have been measured yet.
"""

from mmjax.config import base_config, parse_arg
from mmjax.config.toy_presets import apply_toy_scene_recipe, refuse_unused
from mmjax.errors import validate_choice

SMALL = ("small-blip", "tiny-blip")
PUBLISHED = ("blip-med-B/16",)


def get_config(arg: str = ""):
    # steps=0, tokenizer='': the recipe's own.
    args = parse_arg(arg, variant="small-blip", steps=0, tokenizer="")
    validate_choice("variant", args.variant, SMALL + PUBLISHED)
    config = base_config(args.variant)
    config.name = "blip"
    config.objectives.itc = 1.0
    config.objectives.itm = 1.0
    config.objectives.caption = 1.0
    if args.variant in SMALL:
        refuse_unused(args, f"variant={args.variant}", "tokenizer")
        apply_toy_scene_recipe(config, steps=args.steps or 220, scan=True)
        return config
    config.name = "blip-med-B"
    config.model.init = "blip"
    config.batch_size = 2880
    config.steps = args.steps or 20 * 14_000_000 // 2880
    config.model.text.dropout = 0.1
    config.model.max_logit_scale = 1000.0  # temperatures from 0.001
    config.optimizer.learning_rate = 3e-4
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay = ("(?!logit_scale).*",)
    config.schedule.warmup = min(3000, config.steps // 10)
    config.loss.label_smoothing = 0.1
    config.data.tokenizer = args.tokenizer or "json:bert-base-uncased/tokenizer.json"
    config.data.context_length = 30
    config.data.mean_std = "clip"
    config.data.resize = "squash"
    config.data.crop_scale = (0.5, 1.0)
    config.data.flip = True
    config.data.workers = 8
    config.eval.every = 5000
    config.decoding.method = "beam"
    config.decoding.beams = 3
    config.decoding.max_tokens = 20
    return config
