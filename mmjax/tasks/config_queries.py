"""Questions that several rooms ask of a config: texts or none, which, how long."""

import ml_collections


def has_image(config: ml_collections.ConfigDict) -> bool:
    """Whether the model looks at images that are prepared; those among several modalities may be arrays."""
    return "image" in config.model


def has_text(config: ml_collections.ConfigDict) -> bool:
    """Whether the model reads or writes text."""
    return "text" in config.model


def text_length(config: ml_collections.ConfigDict) -> int:
    """Tokens of a text in a batch."""
    return config.data.context_length or config.model.text.context_length


def max_new_tokens(config: ml_collections.ConfigDict) -> int:
    """How many tokens a model can write after the longest prompt there may be, the first token or a question.

    Each needs a position but the last one, which is never read.
    """
    prompt = text_length(config) - 1 if config.data.texts == "answers" else 1
    return config.model.text.context_length + 1 - prompt
