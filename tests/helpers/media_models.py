"""Configs of tiny models that see videos and sounds, whose workdirs `model_kinds.save` makes."""

from mmjax.config import base_config, set_group

LAYERS = dict(width=16, heads=2, mlp_dim=16, depth=1, activation="gelu", norm_eps=1e-6, scan=False)
TOKENS = dict(LAYERS, class_token=False)
VIDEO = dict(TOKENS, frames=4, image_size=16, patch_size=8, tubelet_frames=2)
AUDIO = dict(TOKENS, frames=32, mel_bins=16, patch_size=(8, 8))
TEXT = dict(LAYERS, vocab_size=64, context_length=8, causal=False)


def _settings(config):
    config.precision = "float32"
    config.data.tokenizer = "words:shapes"
    config.data.audio.sample_rate = 8000
    config.eval.batch_size = 8
    return config


def towers(*slots, video=None, audio=None):
    """Two towers or more of `video`, `audio` and `text`; `video` and `audio` change their fields, or have a `kind`."""
    config = base_config("tiny")
    text = dict(TEXT, eos_id=2, pool="mean", projection="linear", mask_padding=True)
    fields = lambda default, changes: changes if "kind" in changes else default | changes
    known = {"video": fields(VIDEO, video or {}), "audio": fields(AUDIO, audio or {}), "text": text}
    model = dict(kind="two_tower", embed_dim=16, **{slot: known[slot] for slot in slots})
    set_group(config, "model", model)
    config.objectives.itc = 1.0
    return _settings(config)


def fused(**encoders):
    """A classifier of nine classes of encoders by modality; by default of videos with their sounds."""
    config = base_config("tiny")
    encoders = encoders or {"video": dict(VIDEO, kind="video"), "audio": dict(AUDIO, kind="audio")}
    fusion = dict(LAYERS, kind="joint", depth=1)
    set_group(config, "model", dict(kind="fused", encoders=encoders, fusion=fusion, classes=9))
    config.objectives.classify, config.data.train = 1.0, "actions"
    return _settings(config)
