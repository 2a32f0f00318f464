"""Hugging Face's BERT, RoBERTa and XLM-RoBERTa alone, which a run starts from.

They fit the text tower of a two-tower model of BERT's kind, and the layers that ALBEF, BLIP and BLIP-2's Q-Former make
of a BERT: which layers become which follows from the model that they are opened for.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mmjax.errors import UserError
from mmjax.interop import bert_towers, param_translation, tokenizer_files
from mmjax.interop.param_layouts import COPY
from mmjax.interop.param_names import bert, blip
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair
from mmjax.interop.tensor_files import Tensors, open_tensors, read_json
from mmjax.interop.weights_path import HF_CONFIG, OPENCLIP_CONFIG, find_weights, local_path
from mmjax.models import encoders
from mmjax.models.config import ALBEFConfig, BLIPConfig, ModelConfig, QFormerConfig
from mmjax.parallel import partition

NAME = "Hugging Face's BERT alone"
# What names of a file begin with: of the bare class, and of those with a head for words.
_PREFIXES = ("", "bert.", "roberta.")
_WORDS = "embeddings.word_embeddings.weight"
_STACK = "text/transformer/layers/"
# Names in BERT's first files, and those of what no text tower has: the head for the next sentence.
_OLDER = {r"\.gamma$": ".weight", r"\.beta$": ".bias"}
_UNREAD = re.compile(r"cls\.seq_relationship\.")
# Heads for masked words, BERT's and RoBERTa's, by what shows one; and arrays that repeat others.
_HEADS: dict[str, list[Row]] = {
    "cls.predictions.transform.dense.weight": blip.word_head("cls.predictions."),
    "lm_head.dense.weight": rows(
        "lm_head.",
        "text/",
        *torch_pair("dense", "head_dense"),
        *torch_norm("layer_norm", "head_norm"),
        ("bias", "head_bias", COPY),
    ),
}
_COPIES = {
    "cls.predictions.decoder.weight": _WORDS,
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "lm_head.decoder.weight": _WORDS,
    "lm_head.decoder.bias": "lm_head.bias",
}
# What models have that BERT has not, and that stays fresh: attention to images.
_FRESH = (r"text/transformer/.*(cross_attention|norm_cross)/.*",)
_FRESH_HEAD = r"text/head_(dense|norm|bias)(/.*)?"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoneBert(param_translation.TranslatedTensors):
    """A BERT, opened and checked; its arrays are read by `read`.

    What is not listed is as in `TranslatedTensors`.

    Attributes:
      path: of the file with the arrays.
      settings: of a text tower, as `model.text` has them.
      tokenizer: as `data.tokenizer` has it; empty where none lies beside the weights.
      fresh: patterns of parameters of the model's text tower that no BERT, or not this one, has.
      unread: names in the file of what belongs to no text tower.
    """

    path: Path
    settings: dict[str, Any]
    tokenizer: str
    fresh: tuple[str, ...]
    unread: tuple[str, ...]


def is_bert(path: Any) -> bool:
    """Whether a folder's, or a file's, weights are a BERT's alone; arguments and errors as of `open_bert`."""
    weights = _weights(path)
    config_file = weights.parent / HF_CONFIG
    # OpenCLIP's file may lie beside the config of its text tower.
    if not config_file.is_file() or weights.name.startswith(OPENCLIP_CONFIG.partition("_config")[0]):
        return False
    return (
        bert_towers.is_family(read_json(config_file).get("model_type")) and _prefix(open_tensors(weights)) is not None
    )


def _weights(path: Any) -> Path:
    local = local_path(path)
    return find_weights(local) if local.is_dir() else local


def _prefix(tensors: Tensors) -> str | None:
    return next((prefix for prefix in _PREFIXES if f"{prefix}{_WORDS}" in tensors), None)


def open_bert(path: Any, model: ModelConfig) -> LoneBert:
    """Opens a folder as `save_pretrained` writes it, with config.json and weights, for a model.

    Args:
      path: the folder, its file of weights, or `hf-hub:NAME`.
      model: the run's.

    Raises:
      UserError: missing, damaged, of another kind, with settings that mmjax does not have, or with another number of
        layers than the model makes of it.
    """
    weights = _weights(path)
    config_file = weights.parent / HF_CONFIG
    settings = bert_towers.from_config(read_json(config_file), config_file)
    del settings["eos_id"]  # which is the tokenizer's
    tensors = open_tensors(weights).renamed(_newer)
    prefix = _prefix(tensors)
    if prefix is None:
        raise UserError(f"{weights}: the parameter {_WORDS} is missing; the file is no BERT's")
    tensors = _without_copies(tensors, prefix)
    head = next((table for sign, table in _HEADS.items() if sign in tensors), [])
    has_pooler = f"{prefix}pooler.dense.weight" in tensors
    unread = tuple(name for name in tensors if _UNREAD.match(name))
    tensors = tensors.renamed(lambda name: None if name in unread else name)
    table = [*bert.tower(prefix), *head]
    shapes = _shapes(settings, has_pooler=has_pooler, has_head=bool(head))
    checked = param_translation.select_rows(table, shapes, NAME)
    param_translation.check_tensors(tensors, checked, shapes)
    layers = _layers(prefix, settings, model, config_file)
    chosen = [row for row in checked if not row.ours[0].startswith(_STACK)] + [row for row, _ in layers]
    one_layer = {path.removeprefix(_STACK): shape[1:] for path, shape in shapes.items() if path.startswith(_STACK)}
    shapes = {path: shape for path, shape in shapes.items() if not path.startswith(_STACK)}
    for row, count in layers:
        for path in row.ours:
            # `.../layers/attention/out/bias`, `.../block0/segment1_norm2/scale`: by what follows the stack's name
            name = re.sub(r"^.*?/(layers|block\d+)/(segment1_)?", "", path)
            shapes[path] = (count, *one_layer[name])
    if has_pooler:
        settings |= dict(pool="cls", pooler=True)
    return LoneBert(
        path=weights,
        settings=settings,
        tokenizer=tokenizer_files.of_family(weights.parent, ()),
        fresh=_FRESH if head else (*_FRESH, _FRESH_HEAD),
        unread=unread,
        tensors=tensors,
        rows=chosen,
        shapes=shapes,
    )


def _newer(name: str) -> str:
    for old, new in _OLDER.items():
        name = re.sub(old, new, name)
    return name


def _without_copies(tensors: Tensors, prefix: str) -> Tensors:
    """The arrays of a file without those that repeat others.

    Raises:
      UserError: one differs from what it must repeat.
    """
    copies = {
        name: f"{prefix}{other}" if other == _WORDS else other for name, other in _COPIES.items() if name in tensors
    }
    for name, other in copies.items():
        if other not in tensors or not tensors.are_equal(name, other):
            raise UserError(
                f"{tensors.path}: {name} is not {other} once more, and mmjax has one array for both; leave {name} out"
                " of the file"
            )
    return tensors.renamed(lambda name: None if name in copies else name)


def _shapes(settings: Mapping[str, Any], *, has_pooler: bool, has_head: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a BERT as a text tower; nothing is computed."""
    module = encoders.build(encoders.TextTransformer, "text", settings)
    tree = jax.eval_shape(lambda key: module.init(key, jnp.zeros((1, 1), jnp.int32)), jax.random.key(0))["params"]
    shapes = {f"text/{path}": tuple(leaf.shape) for path, leaf in partition.flattened(tree).items()}
    width = settings["width"]
    dense = {"kernel": (width, width), "bias": (width,)}
    if has_pooler:
        shapes |= {f"text_head/pooler/dense/{name}": shape for name, shape in dense.items()}
    if has_head:
        shapes |= {f"text/head_dense/{name}": shape for name, shape in dense.items()}
        shapes |= {f"text/head_norm/{name}": (width,) for name in ("scale", "bias")}
        shapes |= {"text/head_bias": (settings["vocab_size"],)}
    return shapes


def _layers(prefix: str, settings: Mapping[str, Any], model: ModelConfig, path: Path) -> list[tuple[Row, int]]:
    """The rows of the layers, and how many layers of ours each has.

    Raises:
      UserError: the model makes another number of layers of it, or layers of another function.
    """
    depth = settings["depth"]
    theirs = f"{prefix}encoder.layer.{{i}}."
    if isinstance(model, ALBEFConfig):
        first, behind = model.text.depth, model.fusion.depth
        if first + behind != depth:
            raise UserError(
                f"{path}: num_hidden_layers={depth}, and model.text.depth={first} with model.fusion.depth={behind} are"
                f" {first + behind} layers; make their sum {depth}"
            )
        for field in ("norm", "activation", "norm_eps"):
            value, wanted = getattr(model.fusion, field), settings[field]
            if value != wanted:
                raise UserError(f"{path}: model.fusion.{field}={value!r}, and this BERT has {wanted!r} there")
        fusion = rows(theirs, "fusion/layers/", *bert.LAYER)
        return [
            *((row, first) for row in rows(theirs, _STACK, *bert.LAYER)),
            *((dataclasses.replace(row, first=first), behind) for row in fusion),
        ]
    if isinstance(model, QFormerConfig) and model.text.cross_every > 1 and not model.text.cross_from:
        every = model.text.cross_every
        result = []
        for block in range(every):
            pairs = [*bert.LAYER, *blip.mlp("", "segment1_")]  # the queries' MLPs and the words'
            ours = f"text/transformer/cross_layers/block{block}/"
            of_block = (dataclasses.replace(row, step=every, first=block) for row in rows(theirs, ours, *pairs))
            result += [(row, len(range(block, depth, every))) for row in of_block]
        return result
    table = rows(theirs, _STACK, *bert.LAYER)
    if isinstance(model, BLIPConfig):
        table += rows(theirs, "text_writer/layers/", *blip.self_attention())
    return [(row, depth) for row in table]
