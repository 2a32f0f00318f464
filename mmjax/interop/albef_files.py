"""The ALBEF repository's own checkpoints, for pretraining and for retrieval, which are read and not written.

No library loads them, so that there is none to write them for.

Such a file has no config: sizes are those of its arrays, and what these do not tell is as in the repository
(`configs/Pretrain.yaml`, `models/model_pretrain.py`, `models/vit.py`, `configs/config_bert.json`).
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmjax.data.image import transforms
from mmjax.errors import UserError
from mmjax.interop import model_settings, param_translation, published_towers, tokenizer_files
from mmjax.interop.families.family import complete
from mmjax.interop.model_settings import Settings
from mmjax.interop.param_names import albef as names
from mmjax.interop.purpose import Purpose
from mmjax.interop.tensor_files import Tensors

MARKER = "visual_encoder.cls_token"  # of ALBEF's repository, and of BLIP's
NAME = "ALBEF's own files"
# Copies for momentum distillation, queues of negatives, buffers, and the token table once more.
_UNREAD = re.compile(
    r"(visual_encoder|text_encoder|vision_proj|text_proj)_m\.|(image|text|idx)_queue$|queue_ptr$"
    r"|.*\.position_ids$|text_encoder\.cls\.predictions\.decoder\."
)
_BERT, _WORDS = "text_encoder.", "text_encoder.bert."  # what BERT's names begin with, without a head for words and with
_HEADS = {768: 12}  # by width
_VOCABULARY, _SEP = 30_522, 102  # of bert-base-uncased
_TEXT_LENGTH = 30  # tokens, in retrieval; 25 in pretraining
_MAX_LOGIT_SCALE = 1000.0  # it keeps the temperature above 0.001
_NOTE = f"texts are read as they are, up to {_TEXT_LENGTH} tokens; ALBEF lower-cases them and drops their punctuation"


def _heads(width: int) -> int | published_towers.MissingSetting:
    return _HEADS.get(width) or published_towers.MissingSetting("8", f"no published ALBEF has width {width}")


def _image(tensors: Tensors) -> Settings:
    width, _, patch, _ = model_settings.param_shape(tensors, "visual_encoder.patch_embed.proj.weight", 4)
    positions = model_settings.param_shape(tensors, "visual_encoder.pos_embed", 3)[1]
    side = model_settings.grid_side(tensors, "visual_encoder.pos_embed", positions - 1)
    return dict(
        image_size=side * patch,
        patch_size=patch,
        width=width,
        depth=model_settings.count_layers(tensors, r"visual_encoder\.blocks\.(\d+)\."),
        heads=_heads(width),
        mlp_dim=model_settings.param_shape(tensors, "visual_encoder.blocks.0.mlp.fc1.weight", 2)[0],
        activation="gelu",
        norm_eps=1e-6,
        patch_bias=True,
        pre_norm=False,
    )


def _text(tensors: Tensors, prefix: str, depth: int) -> Settings:
    """The layers of BERT that see the text alone."""
    vocabulary, width = model_settings.param_shape(tensors, f"{prefix}embeddings.word_embeddings.weight", 2)
    size = lambda name: model_settings.param_shape(tensors, f"{prefix}{name}.weight", 2)[0]
    return dict(
        vocab_size=vocabulary,
        context_length=size("embeddings.position_embeddings"),
        token_types=size("embeddings.token_type_embeddings"),
        width=width,
        depth=depth,
        heads=_heads(width),
        mlp_dim=size("encoder.layer.0.intermediate.dense"),
        activation="gelu",
        norm_eps=1e-12,
        norm="post",
        embedding_norm=True,
        final_norm=False,
    )


def _first_fusion(tensors: Tensors, prefix: str) -> tuple[int, int]:
    """The first layer that looks at the image, and how many layers there are.

    Raises:
      UserError: there is none, or it is the very first, as in BLIP's own files.
    """
    layer = re.escape(prefix) + r"encoder\.layer\.(\d+)\."
    depth = model_settings.count_layers(tensors, layer)
    looking = {int(match[1]) for name in tensors for match in [re.match(layer + r"crossattention\.", name)] if match}
    first = min(looking, default=0)
    if first == 0:
        what = "in all of its layers, as BLIP's own files have it" if looking else "in no layer"
        raise UserError(
            f"{tensors.path}: a text encoder with crossattention {what}, and ALBEF's has it in its later layers; of"
            " BLIP give Hugging Face's files"
        )
    return first, depth


def _settings(tensors: Tensors, overrides: Mapping[str, Any]) -> tuple[Settings, str, int]:
    """The model's settings, what BERT's names begin with, and the first layer that looks at the image."""
    has_words = any(name.startswith(_WORDS) for name in tensors)
    prefix = _WORDS if has_words else _BERT
    first, depth = _first_fusion(tensors, prefix)
    towers = dict(image=_image(tensors), text=_text(tensors, prefix, first))
    model_settings.apply_overrides(towers, overrides)
    model_settings.require_known(towers, tensors.path)
    text = towers["text"]
    shared = {field: text[field] for field in ("heads", "mlp_dim", "activation", "norm_eps", "norm")}
    for name, tower in towers.items():
        if tower["width"] % tower["heads"]:
            raise UserError(f"{tensors.path}: {name}.heads={tower['heads']} does not divide its width {tower['width']}")
    text["eos_id"] = _SEP if text["vocab_size"] == _VOCABULARY else None
    settings = complete(
        dict(
            kind="albef",
            embed_dim=model_settings.param_shape(tensors, "vision_proj.weight", 2)[0],
            fusion=dict(depth=depth - first, **shared),
            match=True,
            mlm=has_words,
            max_logit_scale=_MAX_LOGIT_SCALE,
            **towers,
        )
    )
    return settings, prefix, first


def open_parts(tensors: Tensors, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a `ForeignCheckpoint` that the names and shapes of such a file decide.

    Args:
      tensors: of the file, by names without what trainers put around them.
      overrides: settings that the user gave, such as `{"heads": 4}`; of the text for all layers of BERT.

    Raises:
      UserError: an array is missing, unknown, misshapen or no temperature, or the file is of another kind of model.
    """
    tensors = tensors.renamed(lambda name: None if _UNREAD.match(name) else name)
    if "vision_proj.weight" not in tensors:
        raise UserError(
            f"{tensors.path}: a model of ALBEF's or BLIP's repository without vision_proj.weight, such as one for"
            " questions; of their own files mmjax reads ALBEF's for pretraining and for retrieval"
        )
    settings, prefix, first = _settings(tensors, overrides)
    shapes = param_translation.param_shapes(settings)
    rows = param_translation.select_rows(names.table(prefix, first), shapes, NAME)
    param_translation.check_tensors(tensors, rows, shapes)
    temperature = float(tensors.read("temp").reshape(()))
    if not 0 < temperature < np.inf:
        raise UserError(f"{tensors.path}: temp is {temperature}, and a temperature is greater than 0; fetch it again")
    mean, std = transforms.MEAN_STD["clip"]
    prepared = dict(size=settings["image"]["image_size"], resize="squash", interpolation="bicubic")
    return dict(
        settings=settings,
        preprocessing=prepared | dict(mean=list(mean), std=list(std)),
        tokenizer=tokenizer_files.of_family(tensors.path.parent, ()),
        # Masked words need a tokenizer, and mostly none lies there.
        purpose=Purpose(objectives={"itc": 1.0, "itm": 1.0}),
        notes=(_NOTE,),
        text_length=min(_TEXT_LENGTH, settings["text"]["context_length"]),
        tensors=tensors,
        rows=rows,
        shapes=shapes,
    )
