"""Speech recognition: Whisper's shape, an encoder of spectrograms and a decoder that is told by tokens what to write.

Command:
  python train.py --config=configs/asr.py --workdir=runs/asr
  python eval.py --workdir=runs/asr
  python train.py --config=configs/asr.py:variant=whisper-tiny,tokenizer=json+whisper:whisper-tiny/tokenizer.json \
      --workdir=runs/whisper --config.data.train=librispeech:LibriSpeech/train-clean-100 \
      --config.data.eval=librispeech:LibriSpeech/dev-clean
Recipe: two convolutions and two layers over the log-mel spectrogram, and one layer that writes, looking at all of it.
  A text goes on from a token, <|transcribe|> or <|translate|>, which alone says whether the words heard are written or
  their meanings. Three tenths of the sounds have less silence around them than others, as the windows of a long file
  have that `mmjax.load(...).transcribe` cuts at pauses. variant=tiny is smaller still, for a trial.
Data: `tones`, two to four words of an invented language in a noise; no transcript of the test split is trained on.
Sizes for data of your own: variant=whisper-tiny, whisper-base and whisper-small (arXiv:2212.04356): its steps, batch,
  AdamW, rates and prompt, from scratch. Its data, 680,000 hours, are not public. A sound of more than 30 seconds is a
  bad example. The tokenizer is that of Hugging Face's openai/whisper-tiny.
Hardware and time: two cores of a shared 2.5 GHz Xeon, beside much other work: 5.9 minutes of processor time, with the
  evaluation. No published size has been run.
Expected: word error rate 0.8 % on 1,000 transcripts never heard, 0.7 % of their translations, and 3.6 % on sounds of
  ten utterances with pauses of 40 to 240 ms between them, which are cut there.
"""

from mmjax.config import base_config, parse_arg, set_group
from mmjax.config.toy_presets import refuse_unused
from mmjax.errors import validate_choice

# Width, layers of either side, heads, learning rate.
WHISPER = {
    "whisper-tiny": (384, 4, 6, 1.5e-3),
    "whisper-base": (512, 6, 8, 1e-3),
    "whisper-small": (768, 12, 12, 5e-4),
}
# Width, layers of the encoder and of the decoder, heads.
TOY = {"small": (96, 2, 1, 4), "tiny": (32, 1, 1, 2)}


def get_config(arg: str = ""):
    args = parse_arg(arg, variant="small", steps=0, tokenizer="")  # steps=0, tokenizer='': the variant's own
    variant = validate_choice("variant", args.variant, (*TOY, *WHISPER))
    config = base_config("tiny")
    config.variant = variant
    config.name = f"asr-{variant}"
    config.objectives.caption = 1.0
    config.eval.tasks = ("speech_recognition",)
    if variant in TOY:
        refuse_unused(args, f"variant={variant}", "tokenizer")
        width, encoder, decoder, heads = TOY[variant]
        sizes = dict(width=width, heads=heads, mlp_dim=2 * width, activation="gelu_tanh", scan=False)
        set_model(config, (200, 40), (96, 8, 2), encoder, decoder, **sizes)
        config.steps = args.steps or 350
        config.batch_size = 64
        config.precision = "float32"  # CPUs are slow in bfloat16
        config.data.train = "tones@0.5+tones/trimmed@0.3+tones/translations@0.2"
        config.data.eval = "tones/test+tones/test-translations"
        config.data.tokenizer = "words:speech"
        config.data.caption_prompt = "<|{task}|>"
        config.data.audio.sample_rate = 8000
        config.optimizer.update(name="muon", learning_rate=6e-3, b1=0.95, weight_decay=0.1, grad_clip=1.0)
        config.schedule.warmup = config.steps // 10
        config.checkpoint.every = config.steps
        config.eval.update(every=0, batch_size=200)
        config.log.every = 25
        return config
    width, layers, heads, rate = WHISPER[variant]
    sizes = dict(width=width, heads=heads, mlp_dim=4 * width, activation="gelu")
    set_model(config, (3000, 80), (51865, 448, 50257), layers, layers, **sizes)
    config.steps = args.steps or 1 << 20
    config.batch_size = 256
    config.data.tokenizer = args.tokenizer or "json+whisper:whisper-tiny/tokenizer.json"
    config.data.caption_prompt = "<|{language}|><|{task}|><|notimestamps|>"
    config.data.audio.preset = "whisper"
    config.data.audio.longer = "bad"
    config.data.workers = 8
    config.optimizer.update(
        name="adamw", learning_rate=rate, b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.1, grad_clip=1.0
    )
    config.schedule.update(name="constant", warmup=min(2048, config.steps // 10))
    config.schedule.cooldown = config.steps - config.schedule.warmup
    config.eval.update(every=5000, batch_size=64)
    config.eval.speech_recognition.normalization = "basic"
    return config


def set_model(config, spectrogram, text, encoder, decoder, **sizes):
    """Whisper's two sides: the spectrogram's frames and bins; the texts' ids, places and end; layers."""
    frames, mel_bins = spectrogram
    vocab_size, context_length, eos_id = text
    layers = dict(sizes, norm_eps=1e-5)
    audio = dict(layers, kind="whisper", depth=encoder, class_token=False, frames=frames, mel_bins=mel_bins)
    words = dict(layers, depth=decoder, vocab_size=vocab_size, context_length=context_length, eos_id=eos_id)
    words |= dict(norm="pre", final_norm=True, head="tied", cross_every=1, key_bias=False)
    set_group(config, "model", dict(kind="captioner", decoder="transformer", audio=audio, text=words))
