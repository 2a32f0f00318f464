"""Names of Hugging Face's BLIP-2: for retrieval, and in front of a language model."""

import dataclasses
import math

from mmjax.interop import param_layouts
from mmjax.interop.param_names import blip, llama, opt
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair


def retrieval(every: int, scale: float) -> list[Row]:
    """A `Blip2ForImageTextRetrieval`, which has no scale of its logits: that is a number of ours.

    Args:
      every: of so many layers, one after the other, the first looks at the image.
      scale: of the logits.
    """
    return [
        *blip.image("vision_model."),
        *rows("", "", ("query_tokens", "queries", param_layouts.BATCH_OF_ONE)),
        *blip.embeddings("embeddings.", norm="qformer.layernorm"),
        *(row for block in range(every) for row in _layers(block, every, "text/")),
        *rows(
            "",
            "",
            *torch_pair("vision_projection", "image_projection"),
            *torch_pair("text_projection", "text_projection"),
            *torch_pair("itm_head", "match_head/dense"),
        ),
        Row((), ("logit_scale",), param_layouts.constant(math.log(scale))),
    ]


def writer(every: int) -> list[Row]:
    """A `Blip2ForConditionalGeneration` with OPT; `every` as in `retrieval`."""
    return [
        *blip.image("vision_model."),
        *rows(
            "",
            "qformer/",
            ("query_tokens", "queries", param_layouts.BATCH_OF_ONE),
            *torch_norm("qformer.layernorm", "norm_embed"),
        ),
        *(row for block in range(every) for row in _layers(block, every, "qformer/")),
        *llama.connector("", "language_projection"),
        *opt.language_model("language_model."),
    ]


def _layers(block: int, every: int, part: str) -> list[Row]:
    """Layers `block`, `block + every`, ..., each with an MLP for queries and, where words are read, one for these."""
    ours = f"{part}transformer/" + (f"cross_layers/block{block}/" if every > 1 else "layers/")
    pairs = [*blip.self_attention("attention.attention"), *blip.mlp("_query"), *blip.mlp("", "segment1_")]
    pairs += blip.cross_attention("crossattention.attention") if block == 0 else []
    return [
        dataclasses.replace(row, step=every, first=block) for row in rows("qformer.encoder.layer.{i}.", ours, *pairs)
    ]
