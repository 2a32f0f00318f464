"""Questions that several rooms ask of a config: images and texts or none, which, how large; noise or none."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax import registry
from mmjax.config.schema import RunConfig
from mmjax.data.loading.prompt_transforms import most_ids
from mmjax.data.table_columns import parse_columns
from mmjax.models.config import (
    CaptionerConfig,
    ImageTextConfig,
    ModelConfig,
    PrefixLMConfig,
    SeparatorConfig,
    TwoTowerConfig,
)
from mmjax.models.fusion.config import (
    FramesEncoderConfig,
    FusedConfig,
    ImageSizeConfig,
    TextEncoderConfig,
    VideoEncoderConfig,
)
from mmjax.models.image_config import ImageConfig, ImageTowerConfig, PatchesConfig, StreamConfig
from mmjax.models.slot_config import SLOTS, UNITS, EncoderConfig
from mmjax.models.text_config import TextConfig, TextTowerConfig
from mmjax.models.towers_config import TowersConfig
from mmjax.nn.config import block_config


def image_tower(model: ModelConfig) -> ImageConfig | ImageSizeConfig | None:
    """What reads the record's image; None in a model that sees none."""
    kinds = (ImageTextConfig, TowersConfig, FusedConfig, SeparatorConfig)
    return model.image if isinstance(model, kinds) else None


def has_image(config: RunConfig) -> bool:
    """Whether the model looks at images that are prepared; those among several modalities may be arrays."""
    return image_tower(config.model) is not None


def has_text(config: RunConfig) -> bool:
    """Whether the model reads or writes text."""
    return getattr(config.model, "text", None) is not None and not isinstance(config.model, FusedConfig)


def encoders(model: ModelConfig) -> dict[str, EncoderConfig]:
    """The encoders of modalities beside the record's image and text, by modality in the order of the model's inputs."""
    if isinstance(model, FusedConfig):
        prepared = {"image"} if model.image is not None else set()
        return {name: model.encoders[name] for name in sorted(model.encoders.keys() - prepared)}
    filled = ((name, getattr(model, name, None)) for name in SLOTS)
    return {name: encoder for name, encoder in filled if encoder is not None}


def encoder_of_texts(config: RunConfig) -> TextEncoderConfig | None:
    """The encoder of a classifier that reads the texts of a table's columns; None where there is none."""
    texts = [name for name, kind in parse_columns(config.data.table.columns).items() if kind == "text"]
    encoder = encoders(config.model).get("text") if isinstance(config.model, FusedConfig) else None
    return encoder if texts and isinstance(encoder, TextEncoderConfig) else None


def has_frames(config: RunConfig) -> bool:
    """Whether the model looks at videos, whose frames are prepared as images are."""
    return any(isinstance(part, (VideoEncoderConfig, FramesEncoderConfig)) for part in encoders(config.model).values())


def has_pixels(config: RunConfig) -> bool:
    """Whether pictures are prepared: images, or frames of videos."""
    return has_image(config) or has_frames(config)


def examples_name(config: RunConfig) -> str:
    """What examples are counted as: images, videos, ...; of several modalities beside text, examples."""
    names = ["image"] * has_image(config) + [*encoders(config.model)]
    return UNITS.get(names[0], "examples") if len(names) == 1 else "examples"


def first_modality(config: RunConfig) -> str:
    """What a model sees first, beside text: `image`, `video`, ..."""
    return next(iter(["image"] * has_image(config) + [*encoders(config.model)]), "image")


def image_size(config: RunConfig) -> int:
    """Pixels of a side of the images of a model that `has_image`."""
    tower = image_tower(config.model)
    if tower is None:
        raise TypeError(f"model.kind={config.model.kind!r} has no images of its own")
    return tower.image_size


def patch_size(config: RunConfig) -> int:
    """Pixels of a side of a patch of the image tower; 0 for a model without patches."""
    image = image_tower(config.model)
    return image.patch_size if isinstance(image, (PatchesConfig, StreamConfig)) else 0


def text_config(config: RunConfig) -> TextConfig:
    """What reads or writes the texts of a model that `has_text`."""
    model = config.model
    if isinstance(model, (ImageTextConfig, TowersConfig)) and model.text is not None:
        return model.text
    raise TypeError(f"model.kind={model.kind!r} has no texts of its own")


def text_positions(config: RunConfig) -> int:
    """The longest text that a model that `has_text` has positions for, beside what stands in front of it."""
    model, positions = config.model, text_config(config).context_length
    queries = model.qformer if isinstance(model, PrefixLMConfig) and model.text.learned_positions else None
    return positions - (0 if queries is None else queries.queries)


def text_length(config: RunConfig) -> int:
    """Tokens of a text in a batch."""
    return config.data.context_length or text_positions(config)


def separating_field(model: ModelConfig) -> str:
    """The field by which a model tells where the question of a text ends; "" where it does not."""
    if isinstance(model, PrefixLMConfig) and model.prefix_text:
        return "model.prefix_text=True"
    return "model.question" if _reads_questions_apart(model) else ""


def _reads_questions_apart(model: ModelConfig) -> bool:
    return isinstance(model, CaptionerConfig) and model.question is not None


def max_new_tokens(config: RunConfig) -> int:
    """How many tokens a model can write after the longest prompt there may be: first token, caption prompt, question.

    Each needs a position but the last one, which is never read. A question that layers of its own read takes none.
    """
    is_question = config.data.texts == "answers" and not _reads_questions_apart(config.model)
    before_captions = 1
    if config.data.texts != "answers":
        before_captions = min(most_ids(config.data.caption_prompt), text_length(config) - 1)
    prompt = text_length(config) - 1 if is_question else before_captions
    return text_positions(config) + 1 - prompt


def noise_rates(group: Any, path: str = "model") -> Iterator[tuple[str, float]]:
    """The rates of what training does at random in a model or a part of it, by path: fields with `nn.config.NOISE`."""
    if isinstance(group, Mapping):
        for name, part in group.items():
            yield from noise_rates(part, f"{path}.{name}")
    elif dataclasses.is_dataclass(group):
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            if field.metadata.get("noise"):
                yield f"{path}.{field.name}", value
            else:
                yield from noise_rates(value, f"{path}.{field.name}")


def has_noise(config: RunConfig) -> bool:
    """Whether training draws in a model's layers; a plugin's layers may, whatever its fields are."""
    model = config.model
    parts: list[tuple[registry.Registry, Any]] = [(registry.models, model)]
    parts += [(registry.encoders, part) for part in encoders(model).values()]
    if isinstance(model, FusedConfig):
        parts.append((registry.fusions, model.fusion))
    of_plugins = any(part.kind in known.added() for known, part in parts)
    return of_plugins or any(rate > 0 for _, rate in noise_rates(model))


def model_flops(model: ModelConfig) -> float | None:
    """Counts a two-tower model's forward pass over one pair: matrix products only, two operations a multiplication.

    It follows OpenCLIP's `model_profile.csv` (B/32: 14.78e9, B/16: 41.09e9, SigLIP B/16: 46.44e9), attention pooling
    included. None for other kinds of model and convolutional towers, which nobody has counted.
    """
    if not isinstance(model, TwoTowerConfig):
        return None

    def tower(settings: ImageTowerConfig | TextTowerConfig, tokens: int) -> int:
        width, mlp, block = settings.width, 2 * settings.width * settings.mlp_dim, block_config(settings.block)
        head_dim = block.head_dim or width // settings.heads
        queries, keys = settings.heads * head_dim, (block.kv_heads or settings.heads) * head_dim
        hidden = mlp * 3 // 2 if block.mlp_gate else mlp
        per_token = 2 * width * (queries + keys) + hidden
        flops = 2 * settings.depth * (tokens * per_token + 2 * tokens**2 * queries)
        if settings.pool == "map":  # keys and values of every token; one query, its output and its MLP
            flops += 2 * (tokens * 2 * width**2 + 2 * tokens * width + 2 * width**2 + mlp)
        return flops

    image, text = model.image, model.text
    if not isinstance(image, ImageTowerConfig):
        return None
    patches = (image.image_size // image.patch_size) ** 2
    flops = tower(image, patches + int(image.class_token) + image.registers) + tower(text, text.context_length)
    flops += 2 * patches * 3 * image.patch_size**2 * image.width
    for settings in (image, text):
        flops += 2 * settings.width * model.embed_dim if settings.projection != "none" else 0
    return float(flops)
