"""Video captioning: a video transformer, or an image tower a frame, and a decoder that looks at its tokens; or GIT.

Command:
  python train.py --config=configs/video_captioner.py --workdir=runs/video-captioner
  python eval.py --workdir=runs/video-captioner
  python train.py --config=configs/video_captioner.py:variant=git-B/16,tokenizer=json:bert-base-uncased/tokenizer.json \
      --workdir=runs/git --config.init_from=openai-clip-B16 \
      --config.data.train=pairs:msrvtt/MSRVTT_data.json/train,images=msrvtt/videos
Recipe: on the scenes of `moving`, two objects whose shapes, directions, speeds and bounces are described in one of four
  wordings. Tubelets of 4 frames and 8 x 8 pixels through two layers, 96 wide, and a decoder of two that looks at all
  of their tokens, from scratch. `video=frames` has GIT's image tower a frame and vectors of their times in place of
  tubelets, whose tokens a decoder of one stream reads before the words: GIT in small.
Size for data of your own: variant=git-B/16 is GIT-B (arXiv:2205.14100): CLIP's B/16 a frame (`init_from`: its files in
  any format), vectors of the times of 6 frames, a linear map with a norm, and 6 layers of BERT's kind over all tokens
  of all frames and the words, from scratch, with BERT's tokenizer.json (Hugging Face: bert-base-uncased). 10 epochs of
  MSR-VTT's 130,260 captions in batches of 512, 1e-5 for the image tower and 5e-5 for the rest.
Hardware and time: two cores of a shared 2.5 GHz Xeon, 3.6 minutes of processor time. git-B/16 has not been run, nor has
  `video=frames` been measured.
Expected: 94.8 % of 1,000 held-out scenes described exactly, in one of the right wordings; BLEU-4 99.1, CIDEr-D 6.65 (of
  10).
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.config.toy_presets import apply_toy_scene_recipe, refuse_unused
from mmjax.errors import validate_choice

SMALL, PUBLISHED = "small", "git-B/16"
LAYERS = dict(width=96, heads=4, mlp_dim=192, activation="gelu_tanh", norm_eps=1e-6, scan=False)
FRAMES = dict(LAYERS, frames=8, image_size=32, patch_size=8, class_token=False, depth=2)
TEXT = dict(LAYERS, vocab_size=128, context_length=20, eos_id=2, depth=2, head="tied")
# By `video`: the encoder of videos, and what reads its tokens.
MODELS = {
    "tubelets": dict(
        kind="captioner",
        video=dict(FRAMES, kind="video", tubelet_frames=4),
        text=dict(TEXT, cross_every=1),
    ),
    "frames": dict(
        kind="prefix_lm",
        video=dict(FRAMES, kind="frames", pre_norm=False, frame_pool="none", temporal="embedding"),
        text=dict(TEXT, sep_id=5),
        connector="linear_norm",
    ),
}
GIT = dict(
    kind="prefix_lm",
    init="bert",
    video=dict(
        kind="frames",
        frames=6,
        image_size=224,
        patch_size=16,
        width=768,
        depth=12,
        heads=12,
        mlp_dim=3072,
        activation="quick_gelu",
        frame_pool="none",
        temporal="embedding",
    ),
    text=dict(
        vocab_size=30522,
        context_length=1024,
        eos_id=102,
        sep_id=102,
        width=768,
        depth=6,
        heads=12,
        mlp_dim=3072,
        norm="post",
        norm_eps=1e-12,
        embedding_norm=True,
        final_norm=False,
        head="linear",
        dropout=0.1,
    ),
    connector="linear_norm",
)


def get_config(arg: str = ""):
    # video='', steps=0, tokenizer='': the recipe's own.
    args = parse_arg(arg, variant=SMALL, video="", steps=0, tokenizer="")
    config = base_config("tiny")
    config.name = "video captioner"
    config.objectives.caption = 1.0
    if validate_choice("variant", args.variant, (SMALL, PUBLISHED)) == SMALL:
        refuse_unused(args, f"variant={args.variant}", "tokenizer")
        config.variant = validate_choice("video", args.video or "tubelets", MODELS)
        set_group(config, "model", MODELS[config.variant])
        apply_toy_scene_recipe(config, steps=args.steps or 500, data="moving")
        return config
    refuse_unused(args, f"variant={args.variant}", "video")
    config.variant = args.variant
    set_group(config, "model", GIT)
    config.batch_size = 512
    config.steps = args.steps or 10 * 130_260 // 512
    config.init_paths = ("video/image/.*",)
    config.optimizer.learning_rate = 5e-5
    config.optimizer.multipliers = (("video/image/.*", 0.2),)
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.1
    config.schedule.warmup = min(500, config.steps // 10)
    config.data.tokenizer = args.tokenizer or "json:bert-base-uncased/tokenizer.json"
    config.data.context_length = 42
    config.data.mean_std = "clip"
    config.data.crop_scale = (0.8, 1.0)
    config.data.crop_ratio = (1.0, 1.0)
    config.data.workers = 8
    config.eval.every = 1000
    config.decoding.method = "beam"
    config.decoding.beams = 4
    config.decoding.length_penalty = 0.6
    config.decoding.max_tokens = 40
    return config
