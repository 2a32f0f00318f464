"""Image captioning: a ViT and a decoder that looks at its tokens, a transformer or an LSTM.

Command:
  python train.py --config=configs/captioner.py --workdir=runs/captioner
  python train.py --config=configs/captioner.py:decoder=lstm --workdir=runs/captioner-lstm
  python eval.py --workdir=runs/captioner --config.decoding.method=beam
  python train.py --config=configs/captioner.py:variant=captioner-B/16,tokenizer=json+bos:gpt2/tokenizer.json \
      --workdir=runs/captioner --config.data.train=pairs:captions.tsv
Recipe: on drawn scenes, a ViT of 4 layers over 16 patches and a decoder 96 wide with two layers (one, for the LSTM of
  Show, Attend and Tell, arXiv:1502.03044), from scratch; variant=tiny-captioner is smaller still, for a trial.
Sizes for data of your own, from BLIP's recipes (arXiv:2201.12086): AdamW, weight decay 0.05, label smoothing 0.1,
  captions of 5 to 20 tokens from 3 beams. variant=captioner-B/16 is ViT-B/16 and GPT-2's shape, from scratch, for as
  long as BLIP is pre-trained: 20 epochs of 14M images in batches of 2,880, 3e-4, times 0.9 after each (BLIP itself
  starts from a ViT of ImageNet and BERT). variant=blip-B/16 is BLIP's decoder at 384 pixels, as it is fine-tuned on
  COCO (init_from a run of yours): 5 epochs of 566,747 captions in batches of 256, 1e-5. Their tokenizer is GPT-2's or
  BERT's tokenizer.json (Hugging Face: gpt2, bert-base-uncased), by default in a folder of that name.
Hardware and time: two cores of a shared 2.5 GHz Xeon, 4 minutes of training at 300 scenes/s. No published size has
  been run.
Expected: 91.9 % of 1,000 held-out scenes described exactly, in one of the right wordings; CIDEr-D 8.20 (of 10). The
  LSTM, at 140 scenes/s beside other runs: 80.9 % and 7.49.
"""

from mmjax.config import base_config, parse_arg
from mmjax.config.toy_presets import apply_toy_scene_recipe, refuse_unused
from mmjax.errors import UserError, validate_choice

SMALL = ("small-captioner", "tiny-captioner")
PUBLISHED = ("captioner-B/16", "blip-B/16")
# What each decoder adds to the name of a small size.
DECODERS = {"transformer": "", "lstm": "-lstm"}


def get_config(arg: str = ""):
    # steps=0, tokenizer='': the recipe's own.
    args = parse_arg(arg, variant="small-captioner", decoder="transformer", steps=0, tokenizer="")
    validate_choice("variant", args.variant, SMALL + PUBLISHED)
    validate_choice("decoder", args.decoder, DECODERS)
    if args.variant in SMALL:
        refuse_unused(args, f"variant={args.variant}", "tokenizer")
        config = base_config(args.variant + DECODERS[args.decoder])
        config.name = f"captioner, {args.decoder}"
        config.objectives.caption = 1.0
        apply_toy_scene_recipe(config, steps=args.steps or 550)
        return config
    if args.decoder != "transformer":
        raise UserError(
            f"decoder={args.decoder!r}: variant={args.variant!r} has a transformer; choose one of: {', '.join(SMALL)}"
        )
    config = base_config(args.variant)
    config.name = args.variant
    config.objectives.caption = 1.0
    if args.variant == "blip-B/16":
        config.batch_size = 256
        config.steps = args.steps or 5 * 566_747 // 256
        config.optimizer.learning_rate = 1e-5
        config.schedule.warmup = 0
        config.data.tokenizer = args.tokenizer or "json:bert-base-uncased/tokenizer.json"
        config.data.context_length = 40
        config.data.crop_scale = (0.5, 1.0)
    else:
        config.batch_size = 2880
        config.steps = args.steps or 20 * 14_000_000 // 2880
        config.optimizer.learning_rate = 3e-4
        config.schedule.name = "step"
        config.schedule.warmup = min(3000, config.steps // 10)
        config.schedule.decay_every = 14_000_000 // 2880  # an epoch
        config.data.tokenizer = args.tokenizer or "json+bos:gpt2/tokenizer.json"
        config.data.context_length = 30
        config.data.crop_scale = (0.2, 1.0)
    config.model.init = "blip" if args.variant == "blip-B/16" else "vit_gpt2"
    config.model.text.dropout = 0.1
    config.loss.label_smoothing = 0.1
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.05
    config.optimizer.decay = (".*",)  # BLIP gives AdamW all parameters alike
    config.data.mean_std = "clip"
    config.data.resize = "squash"
    config.data.flip = True
    config.data.randaugment = (2, 5)
    config.data.randaugment_policy = "albef"
    config.data.workers = 8
    config.eval.every = 5000
    config.decoding.method = "beam"
    config.decoding.beams = 3
    config.decoding.min_tokens = 5
    config.decoding.max_tokens = 20
    return config
