"""Towers of a model as another one takes them over: which there are, what they compute, their tables of positions."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mmjax.config.typed_groups import to_dict
from mmjax.interop import model_settings
from mmjax.models import modality_encoders
from mmjax.models.config import CaptionerConfig, CoCaConfig, LSTMCaptionerConfig, ModelConfig, PrefixLMConfig
from mmjax.models.fusion.config import FramesEncoderConfig, FusedConfig
from mmjax.models.image_config import StreamConfig
from mmjax.models.slot_config import MODALITIES, EncoderConfig
from mmjax.models.text_config import LSTMTextConfig, TextTransformerConfig, WordsConfig
from mmjax.nn import positions
from mmjax.nn.config import BlockConfig, block_config

# Fields that decide what a tower computes with the same weights, and those of its head.
_FUNCTION = (
    *("activation", "norm_eps", "heads", "patch_size", "class_token", "pre_norm", "final_norm", "crop_to_patches"),
    *("causal", "mask_padding", "eos_id", "norm", "key_bias", "tubelet_frames", "positions", "stride", "patch_length"),
    *("distillation_token", "registers", "learned_positions", "embed_scale", "pad_id"),
    # The first value of layer scales is no matter: they are among the weights.
    *(f"block.{field.name}" for field in dataclasses.fields(BlockConfig) if field.name != "layer_scale"),
)
_FRAMES_FUNCTION = ("frame_pool", "temporal")
_HEAD_FUNCTION = ("pool", "pooler", "pool_norm", "pool_heads")
_POOL_FUNCTION = ("activation", "norm_eps", "heads")  # of a pool that attends
# Kinds of model whose text is always read from left to right.
_LEFT_TO_RIGHT = (CaptionerConfig, LSTMCaptionerConfig, CoCaConfig, PrefixLMConfig)
# What is asked of the data: by the kind of a tower, the fields that say how its input was prepared.
DATA_FIELDS = {
    **dict.fromkeys(("image", "stream", "video", "frames", "resnet", "convnext"), ("data.mean_std",)),
    **dict.fromkeys(("text", "words", "lstm", "question"), ("data.tokenizer",)),
    **dict.fromkeys(("audio", "whisper"), ("data.audio.preset", "data.audio.sample_rate")),
}
_READERS = ("question", "qformer")  # parts of a model that are alike to none of another kind
_FAMILIES = ({"image", "stream"}, {"text", "words", "lstm"})


@dataclasses.dataclass(frozen=True)
class Tower:
    """An encoder within a model.

    Attributes:
      prefix: of its parameters' paths: `image`, `encoder_video`, `video/image`.
      kind: of the encoder; `words` and `lstm` are text parts that write or are fused, `stream` is ViLT's, `question`
        and `qformer` what reads a question or an image for a part that writes.
      field: of the model's config, without `model.`.
      settings: by field, what it would mean where there is no such field.
    """

    prefix: str
    kind: str
    field: str
    settings: Mapping[str, Any]

    @property
    def head(self) -> str:
        """What paths of its head begin with."""
        return f"{self.prefix}_head"

    def is_like(self, other: "Tower") -> bool:
        """Whether weights of one may be meant for the other, by their kinds."""
        return self.kind == other.kind or any({self.kind, other.kind} <= family for family in _FAMILIES)


def towers(model: ModelConfig) -> list[Tower]:
    """The towers of a model, an image tower within one of frames after that."""
    if isinstance(model, FusedConfig):
        parts = {f"encoder_{name}": (f"encoders.{name}", part) for name, part in model.encoders.items()}
    else:
        parts = {name: (name, getattr(model, name, None)) for name in (*MODALITIES, "text", *_READERS)}
    result = []
    for prefix, (field, part) in parts.items():
        if part is None or not dataclasses.is_dataclass(part):
            continue
        kind, settings = prefix if prefix in _READERS else _kind(part), to_dict(part)
        if kind in ("image", "stream"):
            settings = {"pre_norm": kind != "stream"} | settings
        elif kind in ("text", "words", "lstm"):
            settings = {"causal": isinstance(model, _LEFT_TO_RIGHT), "norm": "pre", "positions": "first"} | settings
            settings = model_settings.resolve_eos_id(settings)
            if settings.get("pad_id") is not None and settings.get("pool") != "eos":
                del settings["eos_id"]  # which nothing reads: padding has an id of its own
        result.append(Tower(prefix, kind, field, settings))
        if isinstance(part, FramesEncoderConfig):
            result.append(Tower(f"{prefix}/image", "image", field, settings))
    return result


def _kind(part: Any) -> str:
    if isinstance(part, EncoderConfig):
        return part.kind
    kinds = (
        (StreamConfig, "stream"),
        (TextTransformerConfig, "text"),
        (LSTMTextConfig, "lstm"),
        (WordsConfig, "words"),
    )
    return next((kind for cls, kind in kinds if isinstance(part, cls)), "image")


def tower_of(path: str, known: Sequence[Tower]) -> Tower | None:
    """The innermost tower that a parameter is in; None for one that is in none."""
    inside = [tower for tower in known if path.startswith(f"{tower.prefix}/")]
    return max(inside, key=lambda tower: len(tower.prefix), default=None)


def different_settings(old: Tower, new: Tower) -> list[str]:
    """What makes a tower compute something else with the same weights, as 'model.FIELD: old -> new'."""
    return _different((*_FUNCTION, *(_FRAMES_FUNCTION if new.kind == "frames" else ())), old, new)


def different_head_settings(old: Tower, new: Tower) -> list[str]:
    """The same of the head of a tower."""
    pools = {tower.settings.get("pool") for tower in (old, new)}
    return _different((*_HEAD_FUNCTION, *(_POOL_FUNCTION if "map" in pools else ())), old, new)


def _different(fields: Sequence[str], old: Tower, new: Tower) -> list[str]:
    before, after = _plain(old.settings), _plain(new.settings)
    return [
        f"model.{new.field}.{field}: {before[field]} -> {after[field]}"
        for field in fields
        if field in before and field in after and before[field] != after[field]
    ]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that are there, with pairs as tuples, and a step from patch to patch where it is theirs."""
    plain: dict[str, Any] = {
        name: tuple(x) if isinstance(x, list) else x for name, x in settings.items() if x is not None
    }
    block = block_config(plain.pop("block", None))
    plain |= {f"block.{name}": value for name, value in vars(block).items()}
    if "stride" in settings and "stride" not in plain:
        plain["stride"] = plain["patch_size"]
    return plain


# -- tables of positions -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of positions.

    Attributes:
      grid: its length along each axis.
      prefix: rows before the grid's.
      rule: how it is made for another grid: `space` (bicubic), `time` (along the first axis its first rows where
        there are fewer, else bicubic), `text` (its first rows, else linear), `fixed` (its first rows).
      antialias: whether that of `space` is antialiased.
    """

    grid: tuple[int, ...]
    prefix: int
    rule: str
    antialias: bool = True

    @property
    def rows(self) -> int:
        """All rows."""
        return self.prefix + math.prod(self.grid)


def table_of(path: str, tower: Tower) -> Table | None:
    """The table of positions that a parameter of a tower is; None for another parameter."""
    settings, name = tower.settings, path.removeprefix(f"{tower.prefix}/")
    prefix = int(settings.get("class_token", False)) + int(settings.get("distillation_token", False))
    kind = tower.kind
    if name not in ("position_embedding", "time_embedding"):
        return None
    if kind == "frames":
        return Table((settings["frames"],), 0, "time") if name == "time_embedding" else None
    if kind in ("image", "stream"):
        side = settings["image_size"] // settings["patch_size"]
        return Table((side, side), prefix, "space", settings.get("position_antialias", True))
    if kind == "video":
        side, frames = (
            settings["image_size"] // settings["patch_size"],
            settings["frames"] // settings["tubelet_frames"],
        )
        if name == "time_embedding":
            return Table((frames,), 0, "space")
        joint = settings["positions"] != "factorised"
        return Table((frames, side, side) if joint else (side, side), prefix, "space")
    if kind == "audio":
        windows = settings["patch_size"]
        sizes = zip((settings["frames"], settings["mel_bins"]), windows, settings["stride"] or windows, strict=True)
        return Table(tuple((size - window) // step + 1 for size, window, step in sizes), prefix, "time")
    if kind == "series":
        return Table((-(-settings["steps"] // settings["patch_length"]),), prefix, "time")
    if kind == "whisper":
        return Table((-(-settings["frames"] // 2),), 0, "fixed")
    if "context_length" in settings and name == "position_embedding":
        before = settings["pad_id"] + 1 if settings.get("positions") == "after_pad" else 0
        return Table((settings["context_length"],), prefix if kind == "features" else before, "text")
    return None


def can_resample(old: Table, new: Table) -> bool:
    """Whether one table can be made of another."""
    same = len(old.grid) == len(new.grid) and old.prefix == new.prefix and old.rule == new.rule
    return same and (old.rule != "fixed" or new.grid <= old.grid)


def resample(table: jax.Array, old: Table, new: Table) -> jax.Array:
    """The table for another grid."""
    if old.rule == "space":
        return positions.resample_positions(table, old.grid, new.grid, prefix=old.prefix, antialias=new.antialias)
    if old.rule == "time":
        return modality_encoders.resample_time_positions(table, old.grid, new.grid, old.prefix)
    if new.rows <= old.rows:
        return table[: new.rows]
    stretched = positions.stretch_positions(table[old.prefix :], new.grid[0])
    return jax.numpy.concatenate([table[: old.prefix], stretched])


def describe_resampling(path: str, old: Table, new: Table) -> str:
    """A line on a table for another grid."""
    sizes = [" x ".join(map(str, table.grid)) for table in (old, new)]
    if old.rule == "space" and len(old.grid) == 2:
        return f"resampled {path} from {sizes[0]} to {sizes[1]} patches"
    shorter = new.grid[0] < old.grid[0]
    if old.rule != "space" and shorter and new.grid[1:] == old.grid[1:]:
        return f"cut {path} from {sizes[0]} to its first {sizes[1]}"
    return f"{'interpolated' if old.rule == 'text' else 'resampled'} {path} from {sizes[0]} to {sizes[1]}"
