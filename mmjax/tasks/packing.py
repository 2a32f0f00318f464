"""Packed texts, and texts in groups of like lengths: the models whose outputs they leave the same."""

from typing import Any

import jax
import jax.numpy as jnp

from mmjax.config.schema import RunConfig
from mmjax.data.loading.length_groups import LengthGrouper, parse_groups
from mmjax.data.loading.packing import TextPacker, row_length
from mmjax.errors import UserError
from mmjax.models.config import (
    BLIPConfig,
    CaptionerConfig,
    CoCaConfig,
    ImageTextConfig,
    LSTMCaptionerConfig,
    PrefixLMConfig,
    QFormerConfig,
    TwoTowerConfig,
    ViLTConfig,
)
from mmjax.models.text_config import LSTMTextConfig, TextTowerConfig
from mmjax.models.towers_config import TowersConfig
from mmjax.nn.config import TowerConfig
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.length_groups import TextGroups
from mmjax.parallel.packing import TextPlaces
from mmjax.tasks import attention_kernels, config_queries, load_objective

_PARTS = ("image", "text", "question", "decoder", "fusion")  # of a model, each a group of fields
LAYOUTS = ("text_places", "text_groups")  # keys of a batch whose texts are laid out
_GROUPED_ANYWAY = "data.pack_texts='on' groups them all the same"  # the remedy of an obstacle that has another

Packer = TextPacker | LengthGrouper


def make_packer(config: RunConfig, mesh: jax.sharding.Mesh) -> Packer:
    """What lays out the texts of a model that `packing_obstacle` lets be, of the size that the config gives, if any.

    Raises:
      UserError: `data.length_groups` has other rows than a device has texts.
    """
    devices, pieces = mesh_lib.batch_devices(mesh), config.microbatch
    captions, context = config.batch_size // devices // pieces, config_queries.text_length(config)
    model = config.model
    if isinstance(model, TwoTowerConfig):
        return TextPacker(config.data.packed_rows, row_length(context), captions, pieces, model.text.eos_id)
    groups = parse_groups(config.data.length_groups, context) if config.data.length_groups else ()
    rows = sum(rows for rows, _ in groups)
    if groups and rows != captions:
        raise UserError(
            f"data.length_groups={config.data.length_groups!r} has {rows} rows, but a device and microbatch has"
            f" {captions} texts; give as many"
        )
    # Of every product a group writes the gradient of the weights and adds it to the other groups': 12 D^2 a layer of 16
    # bytes or more. A token's activations are some 300 D bytes a layer, so that costs as much as D tokens.
    text = config_queries.text_config(config)
    seen = (config_queries.image_tower(model), *config_queries.encoders(model).values())
    parts = (part.width for part in (text, *seen) if isinstance(part, (TowerConfig, LSTMTextConfig)))
    width = next(parts, getattr(text, "width", 1))  # a plugin's may have none
    return LengthGrouper(groups, captions, pieces, context, _extra_tokens(config), width, devices * pieces)


def lay_out(packer: Packer, columns: Any) -> dict[str, Any]:
    """What a batch holds of its texts' layout: `text_places` or `text_groups`, from the arrays that a packer adds."""
    if isinstance(packer, LengthGrouper):
        return {"text_groups": TextGroups(*columns, sizes=packer.groups)}
    return {"text_places": TextPlaces(*columns, rows=packer.rows, length=packer.length)}


def layout_shapes(packer: Packer, ids: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """What a batch holds of its texts' layout, as shapes; `ids` is that of its texts [B, L]."""
    column = jax.ShapeDtypeStruct(ids.shape[:1], jnp.int32, sharding=ids.sharding)
    return lay_out(packer, [column] * len(packer.columns))


def packing_obstacle(config: RunConfig) -> str:
    """What keeps texts that are packed or grouped from giving the outputs of padded ones; '' when nothing does."""
    model = config.model
    if isinstance(model, TwoTowerConfig):
        return _obstacle_to_rows(model.text)
    if isinstance(model, ImageTextConfig):
        return _obstacle_to_groups(config, model)
    if isinstance(model, TowersConfig) and model.text is not None:
        return "texts are packed beside images alone, and another slot of model.kind='two_tower' is filled"
    return f"model.kind={model.kind!r} has no texts of its own"


def check_packing(config: RunConfig) -> None:
    """Checks `data.pack_texts` and `data.length_groups`.

    Raises:
      UserError: one asks for what would change the outputs, or is no list of groups.
    """
    obstacle = packing_obstacle(config)
    if config.data.pack_texts == "on" and obstacle:
        raise UserError(f"data.pack_texts='on': {obstacle}; set 'auto'")
    if not config.data.length_groups:
        return
    if isinstance(config.model, TwoTowerConfig):
        obstacle = "model.kind='two_tower' packs its texts, for which there is data.packed_rows"
    if obstacle:
        remedy = "" if obstacle.endswith(_GROUPED_ANYWAY) else "; set it to ''"
        raise UserError(f"data.length_groups={config.data.length_groups!r}: {obstacle}{remedy}")
    if config.data.pack_texts == "off":
        raise UserError(
            f"data.length_groups={config.data.length_groups!r} is not read with data.pack_texts='off'; set it to ''"
        )
    parse_groups(config.data.length_groups, config_queries.text_length(config))


def _obstacle_to_rows(text: TextTowerConfig) -> str:
    """Of two towers all that is read of a text is its end, so texts are packed; those of other models are grouped."""
    if text.positions != "first":
        return f"model.text.positions={text.positions!r} counts tokens by the padding among them"
    if text.mask_padding:
        return "model.text.mask_padding=True goes by text_mask, not by the end of text"
    if not text.causal:
        return "model.text.causal=False, so padding is attended to"
    if text.pool != "eos":
        return f"model.text.pool={text.pool!r} reads other tokens than the end of text"
    for field, of_bert in (("norm", text.norm == "post"), ("token_types", text.token_types)):
        if of_bert:
            return f"model.text.{field}={getattr(text, field)!r} is of a tower whose texts are not packed"
    if text.embedding_norm or not text.final_norm:
        field = "embedding_norm" if text.embedding_norm else "final_norm"
        return f"model.text.{field}={getattr(text, field)} is of a tower whose texts are not packed"
    for name, rate in (("dropout", text.dropout), ("drop_path", text.drop_path)):
        if rate:
            return f"model.text.{name}={rate}, whose noise is drawn for padded texts"
    return ""


def _obstacle_to_groups(config: RunConfig, model: ImageTextConfig) -> str:
    """Padding must not be seen, and noise be a function of a token's number in its row."""
    if not model.hides_padding:
        return f"model.kind={model.kind!r} does not say that no output depends on padding (hides_padding)"
    if isinstance(model, PrefixLMConfig) and model.image is None and model.qformer is None:
        return "model.kind='prefix_lm' reads other tokens than those of an image, which are not counted"
    objectives = {name: load_objective.load(name) for name in load_objective.weights(config)}
    pairs_anew = all("text_tokens" in one.features and "embeddings" not in one.features for one in objectives.values())
    if isinstance(model, (ViLTConfig, QFormerConfig, BLIPConfig)) and pairs_anew:
        return f"objectives.{next(iter(objectives))} pairs whole texts anew, and nothing else reads them"
    if isinstance(model, CoCaConfig) and model.class_token_mask == "shifted":
        return "model.class_token_mask='shifted' lets a text's class token see the token behind the text"
    # Behind a text stand CoCa's class token and ViLT's image.
    dropout = {name: getattr(getattr(model, name, None), "dropout", 0.0) for name in _PARTS}
    behind = "text" if isinstance(model, CoCaConfig) else "image" if isinstance(model, ViLTConfig) else None
    if behind and dropout[behind]:
        return f"model.{behind}.dropout={dropout[behind]}, whose noise of what stands behind a text is drawn there"
    noise = [f"model.{name}.dropout" for name, rate in dropout.items() if rate and name != "image"]
    # What is drawn of patches alone does not depend on the text.
    of_texts = {name: one for name, one in objectives.items() if one.scope == "example" and one.draws}
    noise += [f"objectives.{name}" for name, one in of_texts.items() if one.taught != ("masked_patches",)]
    if noise and not _draws_by_place():
        return f"{noise[0]} draws other noise for shorter texts with jax's random numbers as they are set"
    split = [(axis, size) for axis, size in (("fsdp", config.mesh.fsdp), ("tensor", config.mesh.tensor)) if size != 1]
    if split and config.data.pack_texts == "auto":
        axis, size = split[0]
        return (
            f"mesh.{axis}={size} would reduce each group's gradients by themselves, which takes"
            f" several times as long; {_GROUPED_ANYWAY}"
        )
    return ""


def _draws_by_place() -> bool:
    """Whether a token's random numbers depend on its place alone, not on the length of its row."""
    config: Any = jax.config
    return config.jax_threefry_partitionable and config.jax_default_prng_impl == "threefry2x32"


def _extra_tokens(config: RunConfig) -> int:
    """Tokens that the layers run beside a text's own; a decoder leaves out the last one."""
    model, captions = config.model, -int("captions" in load_objective.taught(config))
    if isinstance(model, PrefixLMConfig) and model.qformer is not None:
        return model.qformer.queries + captions
    if isinstance(model, PrefixLMConfig) and model.image is not None:
        return (
            attention_kernels.image_tokens(model.image)
            - int(model.image.class_token)
            - model.image.registers
            + captions
        )
    if isinstance(model, QFormerConfig):
        return model.queries + captions
    if isinstance(model, ViLTConfig):
        return attention_kernels.image_tokens(model.image)
    if isinstance(model, CoCaConfig):
        return 1
    return captions if isinstance(model, (CaptionerConfig, LSTMCaptionerConfig)) else 0
