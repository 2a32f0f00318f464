"""What models of several parts share: checks of a decoder, its memory, the last token of a prompt."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.errors import UserError
from mmjax.models.encoders import Encoded
from mmjax.nn.transformer import Memory

# What a text part's settings hold for others than the layers: the tokenizer's ids.
TEXT_IDS = ("eos_id", "sep_id")


def check_cross_attention(part: str, settings: Mapping[str, Any]) -> None:
    """Checks that layers of a decoder look at its memory, and that they repeat as often as their settings say.

    Args:
      part: the model's field that holds the settings.
      settings: with `depth`, `cross_every` and `cross_from`, see `Transformer`; `build` refuses a depth that lacks.

    Raises:
      UserError: they do not.
    """
    depth, every, first = settings.get("depth", 0), settings.get("cross_every", 0), settings.get("cross_from", 0)
    if every < 1:
        raise UserError(f"model.{part}.cross_every={every} would leave the image unseen; set it to 1 or more")
    if depth and not 0 <= first < depth:
        raise UserError(
            f"model.{part}.cross_from={first} is none of the {depth} layers of model.{part}.depth, of which one must"
            f" look at the image; choose 0 to {depth - 1}"
        )
    if depth and (depth - first) % every:
        raise UserError(
            f"model.{part}.cross_every={every} does not divide the {depth - first} layers from"
            f" model.{part}.cross_from={first} on; choose one that does"
        )


def check_question(question: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """Checks that layers that read questions fit the decoder that answers them, by the settings of both.

    Raises:
      UserError: texts have no separator, or the two read other ids, or not as many.
    """
    if text.get("sep_id") is None:
        raise UserError("model.question needs to know where questions end; set model.text.sep_id")
    if question.get("vocab_size") != text.get("vocab_size"):
        raise UserError(
            f"model.question.vocab_size={question.get('vocab_size')} is not model.text.vocab_size="
            f"{text.get('vocab_size')}, whose ids are the same; set them alike"
        )
    if question.get("context_length", 0) < text.get("context_length", 0):
        raise UserError(
            f"model.question.context_length={question.get('context_length')} is less than model.text.context_length="
            f"{text.get('context_length')}, the longest text; raise it"
        )


def check_first_id(field: str, token: int | None, vocab_size: int) -> None:
    """Checks that texts can begin with a token of their own, by the model's field that names it.

    Raises:
      UserError: the vocabulary does not have it.
    """
    if token is not None and not 0 <= token < vocab_size:
        raise UserError(
            f"model.{field}={token} is none of the {vocab_size} ids of model.text.vocab_size; choose one of them, or"
            " raise that"
        )


def check_class_token(slot: str, settings: Mapping[str, Any]) -> None:
    """Checks that what fills a slot has a class token to be embedded.

    Raises:
      UserError: it has none.
    """
    if not settings.get("class_token", slot == "image"):
        raise UserError(f"model.{slot}.class_token=False leaves no token to embed; set it to True")


def with_first(text: Int[Array, "B T"], token: int | None) -> Int[Array, "B T"]:
    """Texts with a token in place of their first one; None leaves them."""
    return text if token is None else text.at[:, 0].set(token)


def as_memory(encoded: Encoded) -> Memory:
    """What a decoder looks at; nothing comes through of tokens that are not valid, NaN included."""
    return Memory(without_invalid(encoded).tokens, encoded.valid)


def without_invalid(encoded: Encoded) -> Encoded:
    """Zeros in place of tokens that are not valid."""
    if encoded.valid is None:
        return encoded
    return encoded._replace(tokens=jnp.where(encoded.valid[..., None], encoded.tokens, 0))


def last_valid(tokens: Float[Array, "B N D"], valid: Bool[Array, "B N"] | None) -> Float[Array, "B D"]:
    """Each example's last valid token."""
    if valid is None:
        return tokens[:, -1]
    last = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    return jnp.take_along_axis(tokens, last[:, None, None], axis=1)[:, 0]
