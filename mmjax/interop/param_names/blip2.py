"""Names of Hugging Face's BLIP-2 for retrieval."""

import dataclasses
import math

from mmjax.interop import param_layouts
from mmjax.interop.param_names import blip
from mmjax.interop.param_names.rows import Row, rows, torch_pair


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
        *(row for block in range(every) for row in _layers(block, every)),
        *rows(
            "",
            "",
            *torch_pair("vision_projection", "image_projection"),
            *torch_pair("text_projection", "text_projection"),
            *torch_pair("itm_head", "match_head/dense"),
        ),
        Row((), ("logit_scale",), param_layouts.constant(math.log(scale))),
    ]


def _layers(block: int, every: int) -> list[Row]:
    """Layers `block`, `block + every`, ..., each with an MLP for queries and one for words."""
    ours = "text/transformer/" + (f"cross_layers/block{block}/" if every > 1 else "layers/")
    pairs = [*blip.self_attention("attention.attention"), *blip.mlp("_query"), *blip.mlp("", "segment1_")]
    pairs += blip.cross_attention("crossattention.attention") if block == 0 else []
    return [
        dataclasses.replace(row, step=every, first=block) for row in rows("qformer.encoder.layer.{i}.", ours, *pairs)
    ]
