"""Hugging Face's ViViT, VideoMAE, AST and Whisper: their config files, both ways, and whose table of names is which."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mmjax.interop import huggingface
from mmjax.interop.config_format import ConfigFormat, Settings, one_size
from mmjax.interop.param_names import media
from mmjax.interop.param_names.rows import Row

_WHISPER_EPS = 1e-5  # its config has no such field


@dataclasses.dataclass(frozen=True, kw_only=True)
class Format(ConfigFormat):
    """A kind of tower there. Its `from_config` keeps their names of activations.

    What is not listed is as in `ConfigFormat`.

    Attributes:
      prefix: of a tower's names in the file of a model with a head.
      bare, headed: its classes without and with a head.
      table: (settings, prefix) -> rows.
      has_head_norm: settings -> whether a layer norm stands in front of a classifier's linear layer.
      unread: what names begin with that belong to no tower.
    """

    prefix: str
    bare: str
    headed: str
    table: Callable[[Settings, str], list[Row]]
    has_head_norm: Callable[[Settings], bool]
    unread: tuple[str, ...]


_LAYERS = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
)


def _layers(config: Mapping[str, Any]) -> Settings:
    return dict(
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        activation=config["hidden_act"],
        norm_eps=config["layer_norm_eps"],
    )


def _layers_back(tower: Settings) -> dict[str, Any]:
    return dict(
        hidden_size=tower["width"],
        num_hidden_layers=tower["depth"],
        num_attention_heads=tower["heads"],
        intermediate_size=tower["mlp_dim"],
        hidden_act=huggingface.HF_ACTIVATIONS[tower["activation"]],
        layer_norm_eps=tower["norm_eps"],
    )


def _vivit(config: Mapping[str, Any]) -> Settings:
    frames, *sides = config["tubelet_size"]
    video = dict(
        kind="video",
        frames=config["num_frames"],
        image_size=one_size("image_size", config["image_size"]),
        patch_size=one_size("tubelet_size", sides),
        tubelet_frames=frames,
        positions="joint",
    )
    return {"video": video | _layers(config)}


def _vivit_back(settings: Settings) -> dict[str, Any]:
    video = settings["video"]
    size = video["patch_size"]
    tubelet = [video["tubelet_frames"], size, size]
    fields = dict(image_size=video["image_size"], num_frames=video["frames"], tubelet_size=tubelet)
    return fields | dict(num_channels=3, qkv_bias=True) | _layers_back(video)


def _videomae(config: Mapping[str, Any]) -> Settings:
    video = dict(
        kind="video",
        frames=config["num_frames"],
        image_size=one_size("image_size", config["image_size"]),
        patch_size=one_size("patch_size", config["patch_size"]),
        tubelet_frames=config["tubelet_size"],
        positions="sincos",
        class_token=False,
        key_bias=False,
        final_norm=not config["use_mean_pooling"],
    )
    return {"video": video | _layers(config)}


def _videomae_back(settings: Settings) -> dict[str, Any]:
    video = settings["video"]
    fields = dict(image_size=video["image_size"], patch_size=video["patch_size"], num_frames=video["frames"])
    fields |= dict(tubelet_size=video["tubelet_frames"], use_mean_pooling=not video["final_norm"])
    return fields | dict(num_channels=3, qv_bias=True) | _layers_back(video)


def _ast(config: Mapping[str, Any]) -> Settings:
    size = one_size("patch_size", config["patch_size"])
    audio = dict(
        kind="audio",
        frames=config["max_length"],
        mel_bins=config["num_mel_bins"],
        patch_size=(size, size),
        stride=(config["time_stride"], config["frequency_stride"]),
        distillation_token=True,
    )
    return {"audio": audio | _layers(config)}


def _ast_back(settings: Settings) -> dict[str, Any]:
    audio = settings["audio"]
    time_stride, frequency_stride = audio["stride"] or audio["patch_size"]
    fields = dict(max_length=audio["frames"], num_mel_bins=audio["mel_bins"])
    fields |= dict(patch_size=one_size("audio.patch_size", audio["patch_size"]), qkv_bias=True)
    return fields | dict(time_stride=time_stride, frequency_stride=frequency_stride) | _layers_back(audio)


def _ast_table(settings: Settings, prefix: str) -> list[Row]:
    audio = settings["audio"]
    windows = tuple(audio["patch_size"])
    sizes = zip((audio["frames"], audio["mel_bins"]), windows, audio["stride"] or windows, strict=True)
    frames, bins = ((size - window) // step + 1 for size, window, step in sizes)
    return media.ast(prefix, bins, frames)


def _whisper(config: Mapping[str, Any]) -> Settings:
    shared = dict(width=config["d_model"], activation=config["activation_function"], norm_eps=_WHISPER_EPS)

    def layers(part):
        return shared | dict(
            depth=config[f"{part}_layers"], heads=config[f"{part}_attention_heads"], mlp_dim=config[f"{part}_ffn_dim"]
        )

    audio = dict(kind="whisper", frames=2 * config["max_source_positions"], mel_bins=config["num_mel_bins"])
    eos = config["eos_token_id"]
    text = dict(
        vocab_size=config["vocab_size"],
        context_length=config["max_target_positions"],
        cross_every=1,
        key_bias=False,
        head="tied" if config["tie_word_embeddings"] else "linear",
        head_bias=False,
        eos_id=eos[0] if isinstance(eos, list) else eos,
    )
    return {"audio": audio | layers("encoder"), "text": text | layers("decoder")}


def _whisper_back(settings: Settings) -> dict[str, Any]:
    audio, text = settings["audio"], settings["text"]
    fields: dict[str, Any] = dict(
        d_model=audio["width"],
        activation_function=huggingface.HF_ACTIVATIONS[audio["activation"]],
        max_source_positions=-(-audio["frames"] // 2),
        num_mel_bins=audio["mel_bins"],
        vocab_size=text["vocab_size"],
        max_target_positions=text["context_length"],
        eos_token_id=text["eos_id"],
        tie_word_embeddings=text["head"] == "tied",
        is_encoder_decoder=True,
    )
    for part, tower in (("encoder", audio), ("decoder", text)):
        fields |= {f"{part}_layers": tower["depth"], f"{part}_attention_heads": tower["heads"]}
        fields[f"{part}_ffn_dim"] = tower["mlp_dim"]
    return fields


FORMATS: dict[str, Format] = {
    "vivit": Format(
        name="Hugging Face's ViViT",
        prefix="vivit.",
        bare="VivitModel",
        headed="VivitForVideoClassification",
        defaults=_LAYERS
        | dict(image_size=224, num_frames=32, tubelet_size=[2, 16, 16], hidden_act="gelu_fast", layer_norm_eps=1e-6),
        fixed=dict(num_channels=3, qkv_bias=True),
        settings={"video": dict(positions="joint", class_token=True, key_bias=True, final_norm=True)},
        from_config=_vivit,
        to_config=_vivit_back,
        table=lambda settings, prefix: media.video(prefix, key_bias=True),
        has_head_norm=lambda settings: False,
        unread=("pooler.",),
    ),
    "videomae": Format(
        name="Hugging Face's VideoMAE",
        prefix="videomae.",
        bare="VideoMAEModel",
        headed="VideoMAEForVideoClassification",
        defaults=_LAYERS | dict(image_size=224, patch_size=16, num_frames=16, tubelet_size=2, use_mean_pooling=True),
        fixed=dict(num_channels=3, qv_bias=True),
        settings={"video": dict(positions="sincos", class_token=False, key_bias=False)},
        from_config=_videomae,
        to_config=_videomae_back,
        table=lambda settings, prefix: media.video(prefix, key_bias=False),
        has_head_norm=lambda settings: not settings["video"]["final_norm"],
        unread=("decoder.", "encoder_to_decoder.", "mask_token"),
    ),
    "audio-spectrogram-transformer": Format(
        name="Hugging Face's AST",
        prefix="audio_spectrogram_transformer.",
        bare="ASTModel",
        headed="ASTForAudioClassification",
        defaults=_LAYERS | dict(patch_size=16, frequency_stride=10, time_stride=10, max_length=1024, num_mel_bins=128),
        fixed=dict(qkv_bias=True),
        settings={"audio": dict(class_token=True, distillation_token=True)},
        from_config=_ast,
        to_config=_ast_back,
        table=_ast_table,
        has_head_norm=lambda settings: True,
        unread=(),
    ),
    "whisper": Format(
        name="Hugging Face's Whisper",
        prefix="model.",
        bare="WhisperModel",
        headed="WhisperForConditionalGeneration",
        defaults=dict(
            vocab_size=51865,
            num_mel_bins=80,
            d_model=384,
            activation_function="gelu",
            max_source_positions=1500,
            max_target_positions=448,
            eos_token_id=50256,
            tie_word_embeddings=True,
            **{f"{part}_layers": 4 for part in ("encoder", "decoder")},
            **{f"{part}_attention_heads": 6 for part in ("encoder", "decoder")},
            **{f"{part}_ffn_dim": 1536 for part in ("encoder", "decoder")},
        ),
        fixed=dict(scale_embedding=False),
        settings={
            "audio": dict(class_token=False, norm_eps=_WHISPER_EPS),
            "text": dict(
                **dict(causal=True, norm="pre", token_types=0, embedding_norm=False, final_norm=True),
                **dict(cross_every=1, cross_from=0, cross_mlp=False, key_bias=False, norm_eps=_WHISPER_EPS),
            ),
        },
        from_config=_whisper,
        to_config=_whisper_back,
        table=lambda settings, prefix: media.whisper(prefix),
        has_head_norm=lambda settings: False,
        unread=("proj_out.",),  # a copy of the token table, unless the config says otherwise
    ),
}
