"""Packed texts: the models whose outputs they leave the same."""

import ml_collections

from mmjax.errors import UserError, validate_choice
from mmjax.tasks import config_queries

PACKING = ("auto", "on", "off")


def packing_obstacle(config: ml_collections.ConfigDict) -> str:
    """What keeps packed texts from giving the outputs of padded ones; '' when nothing does."""
    kind = config.model.get("kind", "two_tower")
    if not config_queries.has_text(config) or kind != "two_tower":
        return f"model.kind={kind!r} reads more of a text than its end"
    text = config.model.text
    if not text.causal:
        return "model.text.causal=False, so padding is attended to"
    if text.pool != "eos":
        return f"model.text.pool={text.pool!r} reads other tokens than the end of text"
    if text.mask_padding:
        return "model.text.mask_padding=True goes by text_mask, not by the end of text"
    for rate in ("dropout", "drop_path"):
        if text.get(rate):
            return f"model.text.{rate}={text[rate]}, whose noise is drawn for padded texts"
    return ""


def check_packing(config: ml_collections.ConfigDict) -> None:
    """Checks `data.pack_texts`.

    Raises:
      UserError: it is not known, or asks for what would change the outputs.
    """
    obstacle = packing_obstacle(config)
    if validate_choice("data.pack_texts", config.data.pack_texts, PACKING) == "on" and obstacle:
        raise UserError(f"data.pack_texts='on': {obstacle}; set 'auto'")
