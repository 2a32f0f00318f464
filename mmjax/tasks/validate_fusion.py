"""Mistakes in the settings of a model of several modalities, and what does not fit its data."""

from collections.abc import Iterator, Mapping

from mmjax.config.typed_groups import to_dict
from mmjax.errors import UserError
from mmjax.models.fusion import classifier, kinds
from mmjax.models.fusion.config import (
    AloneConfig,
    AudioEncoderConfig,
    BottleneckConfig,
    CrossConfig,
    EncoderConfig,
    FeaturesEncoderConfig,
    FramesEncoderConfig,
    FusedConfig,
    FusionConfig,
    HybridConfig,
    ImageEncoderConfig,
    JointConfig,
    ModalityTowerConfig,
    PoolingConfig,
    TableEncoderConfig,
    TextEncoderConfig,
    VideoEncoderConfig,
    WhisperEncoderConfig,
)
from mmjax.models.image_config import CONV_STAGES, CONV_STRIDE, ConvEncoderConfig, ConvTowerConfig
from mmjax.nn.config import TowerConfig


def may_be_zero(prefix: str, encoders: Mapping[str, EncoderConfig]) -> Iterator[str]:
    """Paths of the encoders' sizes that may be 0, for none of it."""
    for name, encoder in encoders.items():
        sizes = ("depth",) if isinstance(encoder, ModalityTowerConfig) else ()
        if isinstance(encoder, FeaturesEncoderConfig):
            sizes = ("depth", "context_length", "mlp_dim")
        yield from (f"{prefix}{name}.{size}" for size in sizes)


def check_fused(model: FusedConfig) -> None:
    """Checks encoders and fusion, as far as that takes no data.

    Raises:
      UserError: naming the field.
    """
    if not model.encoders:
        raise UserError("model.encoders={} is empty; give at least one modality an encoder")
    if model.image is not None and "image" not in model.encoders:
        raise UserError("model.image is set, but model.encoders has no 'image'; remove it or add that encoder")
    settings = to_dict(model)
    for name, encoder in model.encoders.items():
        classifier.make_encoder(name, settings["encoders"][name], settings["image"])
        check_encoder(f"model.encoders.{name}", encoder)
    kinds.make_fusion(settings["fusion"], model.classes, field="model.fusion")
    if isinstance(model.fusion, AloneConfig):
        _check_alone(model.fusion, model.encoders)
    elif not model.classes:
        raise UserError(f"model.classes=0: model.fusion.kind={model.fusion.kind!r} has a head; set it to 1 or more")
    _check_fusion("model.fusion", model.fusion, model.encoders)


def _check_alone(fusion: AloneConfig, encoders: Mapping[str, EncoderConfig]) -> None:
    """Checks a model of one tower.

    Raises:
      UserError: it has another number of encoders, or no class token where that is pooled.
    """
    if len(encoders) != 1:
        raise UserError(
            f"model.fusion.kind='alone' is of one modality, and model.encoders has {', '.join(sorted(encoders))};"
            " choose another kind"
        )
    ((name, encoder),) = encoders.items()
    if fusion.pool == "map" and not isinstance(encoder, TowerConfig):
        raise UserError(
            f"model.fusion.pool='map' has as many heads as the tower, and model.encoders.{name} has none; set"
            " model.fusion.pool='mean'"
        )
    if fusion.pool not in ("mean", "map") and not getattr(encoder, "class_token", False):
        raise UserError(
            f"model.fusion.pool={fusion.pool!r}, but model.encoders.{name} has no class token; set"
            " model.fusion.pool='mean'"
        )


def check_arrays(prefix: str, encoders: Mapping[str, EncoderConfig], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Checks that encoders can read what the data have.

    Args:
      prefix: of the encoders' names in the config.
      encoders: by modality.
      shapes: of an example's array, by modality.

    Raises:
      UserError: naming the modality's encoder.
    """
    for name, shape in shapes.items():
        _check_array(f"{prefix}{name}", encoders[name], tuple(shape))


def check_encoder(field: str, encoder: EncoderConfig) -> None:
    """Checks the settings of an encoder against one another.

    Raises:
      UserError: naming the field.
    """
    if isinstance(encoder, ModalityTowerConfig) and encoder.depth and encoder.mlp_dim < 1:
        raise UserError(
            f"{field}.mlp_dim={encoder.mlp_dim}, but its layers have an MLP each; set it to 1 or more,"
            f" or {field}.depth={encoder.depth} to 0"
        )
    if isinstance(encoder, VideoEncoderConfig) and encoder.frames % encoder.tubelet_frames:
        raise UserError(
            f"{field}.frames={encoder.frames} is not a multiple of {field}.tubelet_frames="
            f"{encoder.tubelet_frames}; change one of them"
        )
    if isinstance(encoder, FramesEncoderConfig) and encoder.frame_pool == "cls" and not encoder.class_token:
        raise UserError(
            f"{field}.frame_pool='cls' takes the class token, and {field}.class_token=False; set that to True, or"
            f" {field}.frame_pool='mean'"
        )
    if isinstance(encoder, ConvEncoderConfig):
        check_convolutional(field, encoder)
    if isinstance(encoder, AudioEncoderConfig):
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
    if isinstance(encoder, TableEncoderConfig) and any(count < 1 for count in encoder.categories):
        raise UserError(f"{field}.categories={tuple(encoder.categories)} wants 1 or more categories of each column")


def check_convolutional(field: str, encoder: ConvEncoderConfig) -> None:
    """Checks the sizes of a convolutional tower.

    Raises:
      UserError: naming the field.
    """
    if encoder.image_size % CONV_STRIDE:
        raise UserError(
            f"{field}.image_size={encoder.image_size} is not a multiple of {CONV_STRIDE}, the pixels of a side that"
            " a token of a convolutional tower stands for; change it"
        )
    sizes = {"blocks": (1, _MOST_BLOCKS), "widths": (1, _WIDEST), "stem_width": (2, _WIDEST)}
    for name, (least, most) in sizes.items():
        value = getattr(encoder, name, None)
        if value is None:
            continue
        if isinstance(value, tuple) and len(value) != CONV_STAGES:
            raise UserError(f"{field}.{name}={value} wants {CONV_STAGES} numbers, one for each stage")
        for number in value if isinstance(value, tuple) else (value,):
            if not least <= number <= most:
                raise UserError(f"{field}.{name}={value}: {number} is out of range; it must be {least} to {most:,}")
    if getattr(encoder, "stem_width", 2) % 2:
        raise UserError(f"{field}.stem_width={encoder.width // CONV_STRIDE} is odd; the stem begins with half of it")
    if isinstance(encoder, ConvTowerConfig) and (encoder.pool_heads < 1 or encoder.width % encoder.pool_heads):
        raise UserError(
            f"{field}.pool_heads={encoder.pool_heads} does not divide the tower's width of {encoder.width}; choose one"
            " that does"
        )


def _check_fusion(field: str, fusion: FusionConfig, encoders: Mapping[str, EncoderConfig]) -> None:
    if isinstance(fusion, HybridConfig):
        _check_fusion(f"{field}.fusion", fusion.fusion, encoders)
    if isinstance(fusion, BottleneckConfig) and fusion.bottlenecks < 1:
        raise UserError(f"{field}.bottlenecks={fusion.bottlenecks} must be at least 1: modalities meet in them alone")
    # Those of tokens pool none.
    if isinstance(fusion, (CrossConfig, JointConfig, BottleneckConfig)) or not isinstance(fusion, PoolingConfig):
        return
    for name, encoder in encoders.items():
        owner = f"model.encoders.{name}"
        if not isinstance(encoder, (TowerConfig, ConvEncoderConfig)):
            continue
        if fusion.pool == "map" and (fusion.pool_heads < 1 or encoder.width % fusion.pool_heads):
            raise UserError(
                f"{field}.pool_heads={fusion.pool_heads} does not divide {owner}.width={encoder.width}; choose one that"
                " does"
            )
        if fusion.pool != "cls":
            continue
        if isinstance(encoder, ConvEncoderConfig):
            raise UserError(f"{field}.pool='cls', but {owner} has no class token; set {field}.pool='mean'")
        if not (getattr(encoder, "class_token", False) or getattr(encoder, "distillation_token", False)):
            remedy = "" if isinstance(encoder, TextEncoderConfig) else f"{owner}.class_token=True or "
            raise UserError(f"{field}.pool='cls', but {owner} has no class token; set {remedy}{field}.pool='mean'")
        if not encoder.depth:
            raise UserError(
                f"{field}.pool='cls', but with {owner}.depth=0 its class token sees nothing; set {field}.pool='mean'"
            )


def _check_array(field: str, encoder: EncoderConfig, shape: tuple[int, ...]) -> None:
    axes, ranks = encoder.axes, encoder.ranks or (len(shape),)
    if len(shape) not in ranks or (isinstance(encoder, AudioEncoderConfig) and shape[2:] not in ((), (1,))):
        raise UserError(
            f"{field} reads arrays of {axes}, but those of data.train are of shape {shape}; choose another kind of"
            " encoder, or give the arrays these axes"
        )
    if isinstance(encoder, ImageEncoderConfig) and encoder.crop_to_patches:
        _check_reach(field, encoder.patch_size, shape[:2])
    elif isinstance(encoder, ImageEncoderConfig):
        _check_multiple(field, "patch_size", encoder.patch_size, shape[:2])
    elif isinstance(encoder, VideoEncoderConfig):
        _check_multiple(field, "tubelet_frames", encoder.tubelet_frames, shape[:1])
        _check_multiple(field, "patch_size", encoder.patch_size, shape[1:3])
    elif isinstance(encoder, FramesEncoderConfig):
        _check_multiple(field, "patch_size", encoder.patch_size, shape[1:3])
    elif isinstance(encoder, WhisperEncoderConfig) and (shape[0] > encoder.frames or shape[1] != encoder.mel_bins):
        raise UserError(
            f"{field}.frames={encoder.frames} and {field}.mel_bins={encoder.mel_bins} are of other spectrograms than"
            f" those of data.train, {shape}; set them alike"
        )
    elif isinstance(encoder, AudioEncoderConfig):
        _check_reach(field, tuple(encoder.patch_size), shape[:2])
    elif isinstance(encoder, TableEncoderConfig):
        categorical = len(encoder.categories)
        if shape[0] != encoder.numeric + categorical:
            raise UserError(
                f"{field}.numeric={encoder.numeric} and the {categorical} numbers of {field}.categories make"
                f" {encoder.numeric + categorical} columns, but data.train has {shape[0]}; give each column one"
            )
    elif isinstance(encoder, (TextEncoderConfig, FeaturesEncoderConfig)) and encoder.context_length:
        length = 1 if len(shape) == 1 and isinstance(encoder, FeaturesEncoderConfig) else shape[0]
        if length > encoder.context_length:
            raise UserError(
                f"{field}.context_length={encoder.context_length} is less than the {length} tokens of data.train; set"
                f" it to {length}"
            )


# Far beyond any tower's.
_MOST_BLOCKS, _WIDEST = 1_000, 65_536


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
