"""CLIP4Clip (arXiv:2104.08860): a tower of videos and one of texts, made of CLIP's.

Command:
  python train.py --config=configs/clip4clip.py --workdir=runs/clip4clip
  python eval.py --workdir=runs/clip4clip
  python train.py --config=configs/clip4clip.py:variant=B/32 --workdir=runs/msrvtt --config.init_from=FOLDER \
      --config.data.train=pairs:msrvtt/MSRVTT_data.json/train,images=msrvtt/videos \
      --config.data.eval=pairs:msrvtt/MSRVTT_JSFUSION_test.csv,images=msrvtt/videos/{video_id}.mp4 \
      --config.eval.caption_keys=sentence
Sizes: variant=B/32 | B/16 (and tiny, for a trial): each of 12 frames through CLIP's image tower and its projection,
  made of unit length, and their mean, the paper's meanP; temporal=transformer is its seqTransf, four layers over the
  frames whose result is added to them. `init_from` names the weights of OpenAI's CLIP in any format that mmjax reads (a
  folder of transformers, OpenCLIP's file, hf-hub:openai/clip-vit-base-patch32): the image tower and its projection
  become those of the frames, so that a video of one frame repeated has the embedding of that image, and texts keep the
  first 32 positions. Without `init_from` a size is drawn fresh.
Data: by default `moving`, two objects between walls that move and bounce, in 8 frames of 32 pixels; sentences of the
  test split are never trained on. There, `video=tubelets` sees 2 frames at a time (ViViT's tubelets, from scratch), and
  `video=frames` is the model above, small, with one layer over the frames.
Recipe: CLIP's loss. For the sizes CLIP4Clip's script for MSR-VTT: 5 epochs of 180,000 sentences in batches of 128,
  1e-7 for what is CLIP's and 1e-4 for what is new, weight decay 0.2, gradients clipped at 1, a tenth of the steps to
  warm up. docs/recipes-sources.md has every field.
Hardware and time: two cores of a shared 2.5 GHz Xeon: 3.2 minutes of processor time in all. The sizes are for GPUs, of
  which CLIP4Clip's script has four; mmjax has run the tiny one alone.
Expected: among 1,000 held-out sentences, all different (chance 0.1 %): R@1 26.4 % and R@10 98.1 % from video to text,
  27.4 % and 98.3 % back. `video=frames` and the sizes have not been measured.
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.errors import validate_choice

LAYERS = dict(width=96, heads=4, mlp_dim=192, depth=2, activation="gelu_tanh", norm_eps=1e-6, scan=False)
PIXELS = dict(frames=8, image_size=32, patch_size=8)
VIDEO = {
    "tubelets": dict(LAYERS, **PIXELS, class_token=False, tubelet_frames=2),
    "frames": dict(LAYERS, **PIXELS, kind="frames", temporal="residual", temporal_depth=1, pool="unit_mean"),
}
SIZES = ("B/32", "B/16", "tiny")
TEMPORAL = {"mean": dict(temporal="none"), "transformer": dict(temporal="residual", temporal_depth=4)}
HEAD = ("pool", "projection", "pool_norm", "pool_heads", "pool_mlp_dim")  # of CLIP's image tower
OF_CLIP = ("video/image/.*", "video_head/.*", "text/.*", "text_head/.*", "logit_scale")
BATCH, STEPS = 128, 5 * 180_000 // 128


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small", video="tubelets", temporal="mean", steps=0)  # 0: the variant's own
    if validate_choice("variant", args.variant, ("small", *SIZES)) == "small":
        return small(VIDEO[validate_choice("video", args.video, VIDEO)], args.steps or 400)
    temporal = TEMPORAL[validate_choice("temporal", args.temporal, TEMPORAL)]
    return published(args.variant, temporal, args.steps or STEPS)


def small(video: dict, steps: int):
    """A tower that two cores train in minutes, on embedded data."""
    config = base_config("tiny")
    config.variant = config.name = "clip4clip"
    config.steps = steps
    config.batch_size = 128
    config.objectives.itc = 1.0
    config.precision = "float32"  # CPUs are slow in bfloat16
    text = dict(LAYERS, vocab_size=128, context_length=20, causal=False, mask_padding=True)
    text |= dict(eos_id=2, pool="mean", projection="linear")
    set_group(config, "model", dict(kind="two_tower", embed_dim=64, max_logit_scale=100.0, video=video, text=text))

    config.data.train = "moving"
    config.data.eval = "moving/test"
    config.data.tokenizer = "words:moving"
    config.data.mean_std = "siglip"
    config.data.train_resize = "squash"  # the whole frame; a crop would move the walls

    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = steps // 10
    config.checkpoint.every = steps
    config.eval.every = 0
    config.eval.batch_size = 200
    config.log.every = 20
    return config


def published(variant: str, temporal: dict, steps: int):
    """CLIP's towers, an image tower a frame, by CLIP4Clip's recipe."""
    config = base_config(variant)
    config.name = f"clip4clip {variant}"
    config.steps = steps
    config.batch_size = BATCH
    config.objectives.itc = 1.0
    gelu = dict(activation="quick_gelu")  # OpenAI's
    image = {name: value for name, value in config.model.image.items() if name not in HEAD}
    video = image | gelu | dict(kind="frames", frames=12, pool="unit_mean") | temporal
    text = config.model.text.to_dict() | gelu | dict(context_length=32)
    towers = dict(embed_dim=config.model.embed_dim, max_logit_scale=100.0, video=video, text=text)
    set_group(config, "model", dict(kind="two_tower", **towers))

    config.optimizer.learning_rate = 1e-4
    config.optimizer.multipliers = tuple((path, 1e-3) for path in OF_CLIP)
    config.optimizer.weight_decay = 0.2
    config.optimizer.decay = ("open_clip",)
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.grad_clip = 1.0
    config.schedule.warmup = steps // 10

    config.data.mean_std = "clip"
    config.data.train_resize = "center"
    config.data.workers = 8
    config.checkpoint.every = 500
    config.eval.every = 500
    return config
