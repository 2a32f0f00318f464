"""Mistakes in the settings of a model of several modalities, and what does not fit its data."""

from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections
from flax import linen as nn

from mmjax.errors import UserError
from mmjax.models import modality_encoders
from mmjax.models.encoders import TextTransformer, VisionTransformer
from mmjax.models.fusion import classifier, kinds
from mmjax.models.fusion.tokens import Bottleneck, Cross, Joint

# By kind of encoder, the sizes that may be 0, for none of it.
_MAY_BE_ZERO = {
    kind: ("depth",)
    for kind, cls in modality_encoders.KINDS.items()
    if issubclass(cls, modality_encoders.ModalityTower)
}
_MAY_BE_ZERO["features"] = ("depth", "context_length", "mlp_dim")
# What an encoder reads: the axes of an example's array, and how many there may be.
_AXES: dict[type[nn.Module], tuple[str, tuple[int, ...]]] = {
    VisionTransformer: ("(height, width, channels)", (3,)),
    TextTransformer: ("(tokens,)", (1,)),
    modality_encoders.VideoTransformer: ("(frames, height, width, channels)", (4,)),
    modality_encoders.AudioTransformer: ("(frames, mel bins)", (2, 3)),
    modality_encoders.SeriesTransformer: ("(steps, channels)", (2,)),
    modality_encoders.TableTransformer: ("(columns,)", (1,)),
    modality_encoders.FeatureEncoder: ("(features, width) or (width,)", (1, 2)),
}


def may_be_zero(model: ml_collections.ConfigDict) -> Iterator[str]:
    """Paths of the encoders' sizes that may be 0."""
    for name, encoder in model.encoders.items():
        for size in _MAY_BE_ZERO.get(encoder.get("kind"), ()):
            yield f"model.encoders.{name}.{size}"


def check_fused(model: Mapping[str, Any]) -> None:
    """Checks encoders and fusion, as far as that takes no data.

    Args:
      model: settings of a `FusedClassifier`.

    Raises:
      UserError: naming the field.
    """
    encoders = _encoders(model)
    if not encoders:
        raise UserError("model.encoders={} is empty; give at least one modality an encoder")
    if model.get("image") and "image" not in encoders:
        raise UserError("model.image is set, but model.encoders has no 'image'; remove it or add that encoder")
    for name, encoder in encoders.items():
        _check_encoder(f"model.encoders.{name}", encoder)
    _check_fusion("model.fusion", model["fusion"], model["classes"], encoders)


def check_arrays(model: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that encoders can read what the data have.

    Args:
      model: settings of a `FusedClassifier`.
      shapes: of an example's array, by modality.

    Raises:
      UserError: naming the modality's encoder.
    """
    encoders = _encoders(model)
    for name, shape in shapes.items():
        _check_array(f"model.encoders.{name}", encoders[name], tuple(shape))


def _encoders(model: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The encoders, whose attributes are their settings with the defaults."""
    image = model.get("image")
    return {name: classifier.make_encoder(name, settings, image) for name, settings in model["encoders"].items()}


def _check_encoder(field: str, encoder: nn.Module) -> None:
    if isinstance(encoder, modality_encoders.ModalityTower) and encoder.depth and encoder.mlp_dim < 1:
        raise UserError(
            f"{field}.mlp_dim={encoder.mlp_dim}, but its layers have an MLP each; set it to 1 or more,"
            f" or {field}.depth={encoder.depth} to 0"
        )
    if isinstance(encoder, modality_encoders.VideoTransformer) and encoder.frames % encoder.tubelet_frames:
        raise UserError(
            f"{field}.frames={encoder.frames} is not a multiple of {field}.tubelet_frames="
            f"{encoder.tubelet_frames}; change one of them"
        )
    if isinstance(encoder, modality_encoders.AudioTransformer):
        for name in ("patch_size", "stride"):
            value = getattr(encoder, name)
            if value is not None and min(value) < 1:
                raise UserError(f"{field}.{name}={tuple(value)} wants two sizes of at least 1, frames and mel bins")
        for name, length in zip(("frames", "mel_bins"), encoder.patch_size, strict=True):
            if getattr(encoder, name) < length:
                raise UserError(
                    f"{field}.{name}={getattr(encoder, name)} is less than a patch of {field}.patch_size="
                    f"{tuple(encoder.patch_size)}; change one of them"
                )
    if isinstance(encoder, modality_encoders.TableTransformer) and any(count < 1 for count in encoder.categories):
        raise UserError(f"{field}.categories={tuple(encoder.categories)} wants 1 or more categories of each column")


def _check_fusion(field: str, settings: Mapping[str, Any], classes: int, encoders: Mapping[str, nn.Module]) -> None:
    fuse = kinds.make_fusion(settings, classes, field=field)
    if isinstance(fuse, kinds.Hybrid):
        _check_fusion(f"{field}.fusion", fuse.fusion, classes, encoders)
    if isinstance(fuse, Bottleneck) and fuse.bottlenecks < 1:
        raise UserError(f"{field}.bottlenecks={fuse.bottlenecks} must be at least 1: modalities meet in them alone")
    if isinstance(fuse, (Cross, Joint, Bottleneck)):  # they read tokens and pool none
        return
    for name, encoder in encoders.items():
        owner = f"model.encoders.{name}"
        if fuse.pool == "map" and (fuse.pool_heads < 1 or encoder.width % fuse.pool_heads):
            raise UserError(
                f"{field}.pool_heads={fuse.pool_heads} does not divide {owner}.width={encoder.width}; choose one that"
                " does"
            )
        if fuse.pool != "cls":
            continue
        if not (getattr(encoder, "class_token", False) or getattr(encoder, "distillation_token", False)):
            remedy = "" if isinstance(encoder, TextTransformer) else f"{owner}.class_token=True or "
            raise UserError(f"{field}.pool='cls', but {owner} has no class token; set {remedy}{field}.pool='mean'")
        if not encoder.depth:
            raise UserError(
                f"{field}.pool='cls', but with {owner}.depth=0 its class token sees nothing; set {field}.pool='mean'"
            )


def _check_array(field: str, encoder: nn.Module, shape: tuple[int, ...]) -> None:
    axes, ranks = _AXES[type(encoder)]
    audio = isinstance(encoder, modality_encoders.AudioTransformer)
    if len(shape) not in ranks or (audio and shape[2:] not in ((), (1,))):
        raise UserError(
            f"{field} reads arrays of {axes}, but those of data.train are of shape {shape}; choose another kind of"
            " encoder, or give the arrays these axes"
        )
    if isinstance(encoder, VisionTransformer) and encoder.crop_to_patches:
        _check_reach(field, encoder.patch_size, shape[:2])
    elif isinstance(encoder, VisionTransformer):
        _check_multiple(field, "patch_size", encoder.patch_size, shape[:2])
    elif isinstance(encoder, modality_encoders.VideoTransformer):
        _check_multiple(field, "tubelet_frames", encoder.tubelet_frames, shape[:1])
        _check_multiple(field, "patch_size", encoder.patch_size, shape[1:3])
    elif audio:
        _check_reach(field, tuple(encoder.patch_size), shape[:2])
    elif isinstance(encoder, modality_encoders.TableTransformer):
        categorical = len(encoder.categories)
        if shape[0] != encoder.numeric + categorical:
            raise UserError(
                f"{field}.numeric={encoder.numeric} and the {categorical} numbers of {field}.categories make"
                f" {encoder.numeric + categorical} columns, but data.train has {shape[0]}; give each column one"
            )
    elif isinstance(encoder, (TextTransformer, modality_encoders.FeatureEncoder)) and encoder.context_length:
        length = 1 if isinstance(encoder, modality_encoders.FeatureEncoder) and len(shape) == 1 else shape[0]
        if length > encoder.context_length:
            raise UserError(
                f"{field}.context_length={encoder.context_length} is less than the {length} tokens of data.train; set"
                f" it to {length}"
            )


def _check_multiple(field: str, name: str, size: int, lengths: tuple[int, ...]) -> None:
    if any(length % size for length in lengths):
        shape = "x".join(map(str, lengths))
        what = "frames" if name == "tubelet_frames" else "pixels"
        raise UserError(f"{field}.{name}={size} does not divide the {shape} {what} of data.train; choose one that does")


def _check_reach(field: str, size: int | tuple[int, ...], lengths: tuple[int, ...]) -> None:
    sizes = size if isinstance(size, tuple) else (size,) * len(lengths)
    if any(length < needed for length, needed in zip(lengths, sizes, strict=True)):
        shape = "x".join(map(str, lengths))
        raise UserError(f"{field}.patch_size={size} is more than the {shape} of data.train; choose a smaller one")
