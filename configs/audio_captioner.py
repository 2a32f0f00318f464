"""Audio captioning: a transformer over patches of spectrograms, or Whisper's encoder, and a decoder that looks at it.

Command:
  python train.py --config=configs/audio_captioner.py --workdir=runs/audio-captioner
  python eval.py --workdir=runs/audio-captioner
  python train.py --config=configs/audio_captioner.py:variant=whisper-small,tokenizer=json+bos:gpt2/tokenizer.json \
      --workdir=runs/clotho --config.init_from=whisper-small \
      --config.data.train=pairs:clotho/captions.csv,images=clotho/development \
      --config.data.caption_keys=caption_1+caption_2+caption_3+caption_4+caption_5
Recipe: on `clicks`, the sounds of bouncing objects with captions of what is heard: pitches, loudness, their order, the
  material; no description of a held-out sound is trained on. An AST of two layers, 96 wide, over patches of 4 frames
  by all 32 mel bins, and a decoder of two that looks at all of its tokens, from scratch.
Size for data of your own: variant=whisper-small is Whisper small's encoder (`init_from`: its folder) and a decoder of
  its size, trained on Clotho as Kadlcik et al. do (arXiv:2305.09690): AdamW, batches of 32, 2e-5 after 500 steps, then
  linearly to zero, 100,000 steps. Their decoder is Whisper's, too; ours is new, with GPT-2's tokenizer.json (Hugging
  Face: gpt2).
Hardware and time: two cores of a shared 2.5 GHz Xeon, 1.6 minutes of processor time. whisper-small has not been run.
Expected: 87.3 % of 1,000 held-out sounds described exactly, in one of the right wordings; BLEU-4 94.2, CIDEr-D 7.09 (of
  10).
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.config.toy_presets import apply_toy_scene_recipe, refuse_unused
from mmjax.errors import validate_choice

SMALL, PUBLISHED = "small", "whisper-small"
LAYERS = dict(width=96, heads=4, mlp_dim=192, activation="gelu_tanh", norm_eps=1e-6, scan=False, depth=2)
MODELS = {
    SMALL: dict(
        kind="captioner",
        audio=dict(LAYERS, frames=96, mel_bins=32, patch_size=(4, 32), class_token=False),
        text=dict(LAYERS, vocab_size=64, context_length=16, eos_id=2, head="tied", cross_every=1),
    ),
    PUBLISHED: dict(
        kind="captioner",
        init="bert",
        audio=dict(kind="whisper", frames=3000, mel_bins=80, width=768, depth=12, heads=12, mlp_dim=3072),
        text=dict(
            vocab_size=50257,
            context_length=448,
            eos_id=50256,
            width=768,
            depth=12,
            heads=12,
            mlp_dim=3072,
            activation="gelu",
            head="tied",
            cross_every=1,
            key_bias=False,
        ),
    ),
}


def get_config(arg: str = ""):
    # steps=0, tokenizer='': the recipe's own.
    args = parse_arg(arg, variant=SMALL, steps=0, tokenizer="")
    config = base_config("tiny")
    config.variant = validate_choice("variant", args.variant, MODELS)
    config.name = "audio captioner"
    config.objectives.caption = 1.0
    set_group(config, "model", MODELS[config.variant])
    if config.variant == SMALL:
        refuse_unused(args, f"variant={args.variant}", "tokenizer")
        apply_toy_scene_recipe(config, steps=args.steps or 300, data="clicks")
        return config
    config.batch_size = 32
    config.steps = args.steps or 100_000
    config.init_paths = ("audio/.*",)
    config.optimizer.learning_rate = 2e-5
    config.optimizer.b2 = 0.999
    config.optimizer.eps = 1e-8
    config.optimizer.weight_decay = 0.0
    config.optimizer.grad_clip = 1.0
    config.schedule.name = "constant"
    config.schedule.warmup = min(500, config.steps // 10)
    config.schedule.cooldown = config.steps - config.schedule.warmup
    config.schedule.from_zero = True
    config.data.tokenizer = args.tokenizer or "json+bos:gpt2/tokenizer.json"
    config.data.context_length = 80
    config.data.workers = 8
    config.eval.every = 1000
    config.decoding.max_tokens = 80
    return config
