"""Names of Hugging Face's ViLT."""

from mmjax.interop import param_layouts
from mmjax.interop.param_names import vit
from mmjax.interop.param_names.blip import embeddings, word_head
from mmjax.interop.param_names.rows import Row, rows, torch_norm, torch_pair


def table(prefix: str) -> list[Row]:
    """The model, whose names begin with a prefix where it has a head, with the rows of every head."""
    return [
        *vit.table(prefix),
        *embeddings(f"{prefix}embeddings.text_embeddings."),
        *rows(f"{prefix}embeddings.", "", ("token_type_embeddings.weight", "modality_embedding", param_layouts.COPY)),
        *rows(prefix, "", *torch_pair("pooler.dense", "pooler/dense")),
        *rows(
            "classifier.",
            "answer_head/",
            *torch_pair("0", "fc1"),
            *torch_norm("1", "norm"),
            *torch_pair("3", "fc2"),
        ),
        *rows(
            "rank_output.",
            "match_head/dense/",
            ("weight", "kernel", param_layouts.SCORE),
            ("bias", "bias", param_layouts.SCORE_BIAS),
        ),
        *word_head("mlm_score.", bias="decoder.bias"),
    ]
