"""Mistakes in a model's settings or its objectives, refused before anything is built."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax import plugin_calls, registry
from mmjax.config.schema import RunConfig
from mmjax.config.typed_groups import to_dict
from mmjax.errors import UserError
from mmjax.models import generation, initialisation, language, slots, submodules, two_tower
from mmjax.models.config import (
    ALBEFConfig,
    CaptionerConfig,
    CoCaConfig,
    ImageTextConfig,
    ModelConfig,
    PrefixLMConfig,
    QFormerConfig,
    SeparatorConfig,
    SlotsConfig,
    TwoTowerConfig,
)
from mmjax.models.fusion.config import AloneConfig, FramesEncoderConfig, FusedConfig
from mmjax.models.image_config import ConvEncoderConfig, ImageConfig
from mmjax.models.slot_config import MODALITIES
from mmjax.models.text_config import TextTowerConfig
from mmjax.models.towers_config import TowersConfig
from mmjax.nn.config import LayersConfig, block_config
from mmjax.tasks import config_queries, load_objective, packing, text_records, validate_block, validate_fusion

# Parts without a width of their own, by kind of model, and those whose width they have.
_AS_WIDE_AS = {(ALBEFConfig, "model.fusion"): "model.text", (CoCaConfig, "model.decoder"): "model.text"}

# Sizes within a model, which are at least 1, and those that may be 0; with the largest that each may have, far beyond
# any model's, but such that shapes are known in no time.
_SIZES = {
    **dict.fromkeys(("depth", "layers"), 1_000),
    **dict.fromkeys(("width", "embed_dim", "embed_width", "heads", "pool_heads", "image_size"), 65_536),
    **dict.fromkeys(
        ("mlp_dim", "pool_mlp_dim", "patch_size", "context_length", "queries", "classes", "frames", "steps"), 1_000_000
    ),
    **dict.fromkeys(("mel_bins", "patch_length", "tubelet_frames", "bottlenecks"), 1_000_000),
    "vocab_size": 10_000_000,
}
_COUNTS = dict.fromkeys(("answers", "hidden", "numeric", "token_types", "registers", "rope_grid"), 1_000_000)
_COUNTS |= dict.fromkeys(("kv_heads", "head_dim"), 65_536)
_IDS = dict.fromkeys(("eos_id", "sep_id", "pad_id"), _SIZES["vocab_size"])
_LARGEST = _SIZES | _COUNTS | _IDS
_MOST_PATCHES = 1_000_000  # of an image


def check_sizes(config: RunConfig) -> None:
    """Checks the sizes and scales within a model, before anything is computed by them.

    Raises:
      UserError: naming the field.
    """
    zero_fields = set(may_be_zero(config.model))
    for group, part in (("model", to_dict(config.model)), *_parts("model", to_dict(config.model))):
        for name, size in part.items():
            if type(size) is not int or name not in _LARGEST:
                continue
            field, largest = f"{group}.{name}", _LARGEST[name]
            if size < 0 and (name in _COUNTS or field in zero_fields):
                raise UserError(f"{field}={size} must not be negative")
            if size < 1 and name in _SIZES and field not in zero_fields:
                raise UserError(f"{field}={size} must be at least 1")
            if size > largest:
                raise UserError(f"{field}={size:,} is more than {largest:,}, beyond any model; lower it")
        size, patch = part.get("image_size"), part.get("patch_size")
        if type(size) is int and type(patch) is int and (size // patch) ** 2 > _MOST_PATCHES:
            raise UserError(
                f"{group}.image_size={size} has {(size // patch) ** 2:,} patches of {group}.patch_size={patch}, more"
                f" than {_MOST_PATCHES:,}; lower the one or raise the other"
            )
    initial, most = getattr(config.model, "logit_scale_init", 1), config.model.max_logit_scale
    if not 0 < initial < math.inf:
        raise UserError(f"model.logit_scale_init={initial} must be positive and finite")
    if most is not None and not most >= 1:
        raise UserError(f"model.max_logit_scale={most} must be at least 1, or none for no limit")


def check_model(config: RunConfig) -> None:
    """Checks the fields that describe the model, its objectives and what they are given.

    Raises:
      UserError: naming the field.
    """
    model = config.model
    if not isinstance(model, (ImageTextConfig, TowersConfig, FusedConfig, SeparatorConfig)):
        raise UserError(
            f"{registry.models.describe(model.kind)}: config={type(model).__name__} does not say what examples are"
            " prepared for; derive it from ImageTextConfig, whose groups `image` and `text` do"
        )
    check_sizes(config)
    initialisation.check(model)
    parts = dict(_parts("model", to_dict(model)))
    for field, rate in config_queries.noise_rates(model):
        if not 0.0 <= rate < 1.0:
            raise UserError(f"{field}={rate} is not in [0, 1)")
    for field, group in _groups("model", model):
        if isinstance(group, (LayersConfig, ImageConfig)):  # fields of a plugin's may mean something else
            _check_part(field, parts[field])
        if isinstance(group, LayersConfig):
            _check_heads(config, field, parts)
            wide = _AS_WIDE_AS.get((type(model), field), field)
            validate_block.check_block(field, group, parts[wide].get("width"))
    if config_queries.has_text(config):
        context, positions = config_queries.text_config(config).context_length, config_queries.text_positions(config)
        if positions < 2:
            raise UserError(
                f"model.text.context_length={context} leaves no room for a text behind the {context - positions}"
                " queries of model.qformer; raise it"
            )
        if config.data.context_length > positions:
            behind = f", less the {context - positions} queries of model.qformer" if positions < context else ""
            raise UserError(
                f"data.context_length={config.data.context_length} is longer than the model's"
                f" model.text.context_length={context}{behind}; lower it or set 0 for the model's own"
            )
    if not isinstance(model, FusedConfig):
        _check_slots(config)
    if isinstance(model, (TwoTowerConfig, TowersConfig)):
        _check_towers(model)
    elif isinstance(model, FusedConfig):
        validate_fusion.check_fused(model)
        if config.attention in ("cudnn", "pallas"):
            raise UserError(
                f"attention={config.attention!r}: model.kind='fused' runs on XLA's kernel alone; set attention='auto'"
            )
    else:
        _check_decoder(model)
    _check_objectives(config)
    _check_unused(config)
    packing.check_packing(config)


def may_be_zero(model: ModelConfig) -> Iterator[str]:
    """Paths of the sizes in a model's settings that may be 0."""
    prefix = "model.encoders." if isinstance(model, FusedConfig) else "model."
    if isinstance(model, CoCaConfig):
        yield "model.queries"
    if isinstance(model, FusedConfig) and isinstance(model.fusion, AloneConfig):
        yield from ("model.classes", "model.fusion.projection")
    yield from validate_fusion.may_be_zero(prefix, config_queries.encoders(model))


def _groups(field: str, settings: Any) -> Iterator[tuple[str, Any]]:
    """The dataclasses within a model's settings, however deep, by path."""
    values = settings.items() if isinstance(settings, Mapping) else vars(settings).items()
    for name, value in values:
        if dataclasses.is_dataclass(value):
            yield f"{field}.{name}", value
        if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
            yield from _groups(f"{field}.{name}", value)


def _parts(field: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The groups of fields within a model's settings, however deep."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield f"{field}.{name}", value
            yield from _parts(f"{field}.{name}", value)


def _check_part(field: str, part: Mapping[str, Any]) -> None:
    keep, remat = part.get("remat_keep", 0), part.get("remat")
    if keep < 0:
        raise UserError(f"{field}.remat_keep={keep} must not be negative; it counts the last layers, which keep all")
    if keep and remat in ("auto", "none"):
        raise UserError(
            f"{field}.remat_keep={keep} has no use with {field}.remat={remat!r}; set {field}.remat='dots' or 'full', or"
            " leave it 0"
        )
    if part.get("cross_mlp") and part.get("norm") == "post":
        raise UserError(f"{field}.cross_mlp=True does not go with {field}.norm='post'; set {field}.norm='pre'")
    size, patch = part.get("image_size"), part.get("patch_size")
    if isinstance(size, int) and isinstance(patch, int) and size % patch and not part.get("crop_to_patches"):
        crop = f", or set {field}.crop_to_patches=True to leave the last pixels out"
        raise UserError(
            f"{field}.image_size={size} is not a multiple of {field}.patch_size={patch}; change one of them"
            + (crop if "crop_to_patches" in part else "")
        )


def _check_heads(config: RunConfig, field: str, parts: Mapping[str, Mapping[str, Any]]) -> None:
    heads, wide = parts[field]["heads"], _AS_WIDE_AS.get((type(config.model), field), field)
    width = parts[wide].get("width")
    if width is None:  # a plugin's layers, which are as wide as something else
        return
    block = block_config(parts[field].get("block"))
    if heads < 1 or (width % heads and not block.head_dim):
        raise UserError(f"{field}.heads={heads} does not divide {wide}.width={width}; choose one that does")
    if heads % max(1, config.mesh.tensor):
        raise UserError(f"mesh.tensor={config.mesh.tensor} does not divide {field}.heads={heads}")


def _check_slots(config: RunConfig) -> None:
    """Checks that as many slots are filled as the model has use for, each with what reads its modality."""
    model, settings = config.model, to_dict(config.model)
    encoders = config_queries.encoders(model)
    filled = ["image"] * (config_queries.image_tower(model) is not None) + [*encoders]
    if isinstance(model, (TwoTowerConfig, TowersConfig)):
        filled += ["text"] * config_queries.has_text(config)
        if len(filled) < 2:
            names = ", ".join((*MODALITIES, "text"))
            raise UserError(
                f"model.kind='two_tower' contrasts two or more of {names}; filled: {', '.join(filled) or 'none'}"
            )
    elif len(filled) != 1:
        both = " and ".join(f"model.{name}" for name in filled) or "none"
        raise UserError(f"model.kind={model.kind!r} sees one of {', '.join(MODALITIES)}; filled: {both}; fill one")
    for name, encoder in encoders.items():
        slots.make_encoder(f"model.{name}", name, settings[name], ignored=("pool", "projection"))
        validate_fusion.check_encoder(f"model.{name}", encoder)
        if slots.MODALITY_OF_KIND.get(encoder.kind, name) != name:
            kinds = [kind for kind, modality in slots.MODALITY_OF_KIND.items() if modality == name] + ["features"]
            raise UserError(
                f"model.{name}.kind={encoder.kind!r} reads {encoder.axes}, not {name}; choose one of:"
                f" {', '.join(kinds)}"
            )


def _check_towers(model: TwoTowerConfig | TowersConfig) -> None:
    towers: dict[str, Any] = {name: getattr(model, name, None) for name in (*MODALITIES, "text")}
    for name, tower in towers.items():
        if tower is None:
            continue
        field = f"model.{name}"
        width = getattr(tower, "width", model.embed_dim)  # a plugin's encoder may have none
        if tower.projection == "none" and width != model.embed_dim:
            raise UserError(
                f"{field}.projection='none' needs {field}.width={width} to equal model.embed_dim={model.embed_dim}"
            )
        if isinstance(tower, ConvEncoderConfig):
            validate_fusion.check_convolutional(field, tower)
            continue
        # The class token of `frames` is each frame's, not the video's.
        of_frames = getattr(tower, "kind", "") == FramesEncoderConfig.kind
        class_token = getattr(tower, "class_token", False) and not of_frames
        if of_frames and tower.pool == "cls":
            raise UserError(f"{field}.pool='cls' would read the first frame alone; set {field}.pool='mean' or 'map'")
        if tower.pool == "mean" and name == "text" and not tower.mask_padding:
            raise UserError("model.text.pool='mean' would average padding in; set model.text.mask_padding=True")
        pool_heads = getattr(tower, "pool_heads", None)
        if pool_heads and width % pool_heads:
            raise UserError(
                f"{field}.pool_heads={pool_heads} does not divide {field}.width={width}; choose one that does"
            )
        if tower.pool == "cls" and name != "text" and not class_token:
            raise UserError(f"{field}.pool='cls' needs {field}.class_token=True")
        if isinstance(tower, TextTowerConfig):
            _check_text_tower(tower)
    if isinstance(model, TowersConfig):
        filled = [name for name, tower in towers.items() if tower is not None]
        two_tower.contrasted_pairs(model.pairs, filled)


def _check_text_tower(text: TextTowerConfig) -> None:
    """Checks what fields of BERT's kind need of each other."""
    if text.pool == "cls" and text.causal:
        raise UserError(
            "model.text.pool='cls' sees the first token alone where model.text.causal=True; set it to False"
        )
    if text.pooler and text.pool != "cls":
        raise UserError(f"model.text.pooler=True reads the first token, but model.text.pool={text.pool!r}; set 'cls'")
    if text.pad_id is not None and not 0 <= text.pad_id < text.vocab_size:
        raise UserError(
            f"model.text.pad_id={text.pad_id} is none of the {text.vocab_size} ids of model.text.vocab_size; set the"
            " tokenizer's"
        )
    if text.pad_id is not None and not text.mask_padding:
        raise UserError(
            f"model.text.pad_id={text.pad_id} says what model.text.mask_padding masks, which is False; set it to True"
        )
    if text.positions == "after_pad" and text.pad_id is None:
        raise UserError("model.text.positions='after_pad' begins after model.text.pad_id, which is not set; set it")


def _check_decoder(model: ModelConfig) -> None:
    """What writes words must score them, and what describes an image must look at it."""
    if isinstance(model, (CaptionerConfig, PrefixLMConfig)) and model.text.head == "none":
        heads = ", ".join(head for head in language.HEADS if head != "none")
        raise UserError(f"model.text.head='none' writes no words; choose one of: {heads}")
    if isinstance(model, (CaptionerConfig, QFormerConfig)):
        submodules.check_cross_attention("text", to_dict(model.text))
    if isinstance(model, PrefixLMConfig) and model.qformer is not None:
        submodules.check_cross_attention("qformer", to_dict(model.qformer))
    if isinstance(model, CaptionerConfig) and model.question is not None:
        submodules.check_question(to_dict(model.question), to_dict(model.text))
    if isinstance(model, CoCaConfig) and model.text.cross_every:
        raise UserError(
            f"model.text.cross_every={model.text.cross_every}: the text tower of model.kind='coca' sees no image, its"
            " decoder does; set it to 0"
        )


def _check_objectives(config: RunConfig) -> None:
    weights, model, loss = load_objective.weights(config), config.model, config.loss
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise UserError(f"objectives.{name}={weight} must be finite and must not be negative")
    wanted = {name: load_objective.load(name) for name in weights}
    if not wanted and not (isinstance(model, FusedConfig) and not model.classes):
        raise UserError(f"objectives={to_dict(config.objectives)}: at least one weight must be positive")
    supported = load_objective.supported(config)
    for name, one in wanted.items():
        if name not in supported:
            raise UserError(
                f"objectives.{name}={weights[name]} needs a model that serves {' and '.join(one.needs)};"
                f" objectives of model.kind={model.kind!r} are {', '.join(supported) or 'none'}"
            )
        if one.head and not getattr(model, one.head, True):
            raise UserError(
                f"objectives.{name}={weights[name]} needs the head model.{one.head}, which is"
                f" {getattr(model, one.head)}"
            )
    for name, one in wanted.items():
        if one.check_config is not None:
            with plugin_calls.calling(registry.objectives, name, one.check_config, "check_config(RunConfig)"):
                one.check_config(config)
    for name in (name for name, one in wanted.items() if one.alone and len(wanted) > 1):
        other = next(other for other in wanted if other != name)
        raise UserError(
            f"objectives.{other}={weights[other]} does not go with objectives.{name}; set one of the two to 0"
        )
    if config_queries.has_text(config):
        texts = config.data.texts
        first, *others = wanted
        fitting = [name for name in wanted[first].texts if all(name in wanted[other].texts for other in others)]
        if texts not in fitting:
            raise UserError(f"data.texts={texts!r} does not go with objectives.{first}; set {' or '.join(fitting)}")
    elif config.data.positives == "text":
        raise UserError(f"data.positives='text' needs texts, which model.kind={model.kind!r} does not read; set 'id'")
    if "captions" in load_objective.taught(config):
        if getattr(model, "question", None) is not None and config.data.texts != "answers":
            raise UserError(
                f"data.texts={config.data.texts!r}: model.question reads questions; set data.texts='answers', or"
                " model.question to none"
            )
        _check_writing(config)
    for name in ("label_smoothing", "contrastive_smoothing"):
        if not 0.0 <= getattr(loss, name) < 1.0:
            raise UserError(f"loss.{name}={getattr(loss, name)} is not in [0, 1)")
    if loss.triplet_margin < 0:
        raise UserError(f"loss.triplet_margin={loss.triplet_margin} must not be negative")
    for name, rate in (("mlm_rate", loss.mlm_rate), ("mim_ratio", loss.mim_ratio)):
        if not 0.0 < rate < 1.0:
            raise UserError(f"loss.{name}={rate} is not in (0, 1)")
    if not 0.0 <= model.modality_dropout < 1.0:
        raise UserError(f"model.modality_dropout={model.modality_dropout} is not in [0, 1)")


def _check_writing(config: RunConfig) -> None:
    room, wanted = config_queries.max_new_tokens(config), config.decoding.max_tokens
    if wanted > room:
        context = config_queries.text_config(config).context_length
        raise UserError(
            f"decoding.max_tokens={wanted}: model.text.context_length={context} has room for {room} after a prompt of"
            f" up to {context + 1 - room}; lower it"
            + (", or data.context_length" if config.data.texts == "answers" else "")
        )


def _check_unused(config: RunConfig) -> None:
    """Checks fields that would otherwise be passed over in silence.

    Raises:
      UserError: naming the field.
    """
    if config.data.blind and not (config_queries.has_image(config) or isinstance(config.model, SlotsConfig)):
        raise UserError(
            f"data.blind=True: model.kind={config.model.kind!r} is given modalities, not images and texts; set it to"
            " False, and model.modality_dropout to train with modalities hidden"
        )
    writes = "captions" in load_objective.taught(config) and config.data.texts != "answers"
    if config.eval.meteor and not writes:
        trained = ", ".join(load_objective.weights(config))
        what = "answers, not captions" if config.data.texts == "answers" else "no captions"
        raise UserError(f"eval.meteor=True: a model trained with objectives.{trained} writes {what}; set it to False")
    text_records.check_prompt(config)
    _check_decoding(config)


def _check_decoding(config: RunConfig) -> None:
    settings = dataclasses.asdict(config.decoding)
    for name in ("max_tokens", "min_tokens"):
        if settings[name] < 0:
            raise UserError(f"decoding.{name}={settings[name]} must not be negative; 0 leaves it to the model")
    # What depends on the tokens there is room for is checked again where text is written.
    settings["max_tokens"] = settings["max_tokens"] or max(1, settings["min_tokens"])
    generation.Decoding(**settings, eos_id=0, pad_id=0)
