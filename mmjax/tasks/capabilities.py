"""Capabilities of a trained model, in the names of the methods of what `mmjax.load` returns."""

from typing import Any

from mmjax.config.schema import RunConfig
from mmjax.errors import UserError
from mmjax.models.config import ModelConfig
from mmjax.models.fusion.config import AloneConfig, FusedConfig, LateConfig
from mmjax.tasks import load_objective

EMBEDDING = ("encode_image", "encode_text", "zero_shot")
METHODS = ("classify", "answer", "caption", "transcribe", "match", "sync_offset", "separate")


def capabilities(task: Any) -> tuple[str, ...]:
    """What a task's model has been trained for.

    `caption` writes, `transcribe` does it about sounds of any length, `answer` chooses or writes (a model with queries
    in front of a language model, BLIP-2, does both, as its prompt says), `match` scores if image and text belong
    together, `classify` is of several modalities, `sync_offset` tells how late a video's sound is, `separate` splits
    sounds by what is seen, and `encode_image`, `encode_text`, ... are there where a model's modalities are vectors, one
    each, in one space; with texts `zero_shot` is, too. A lone tower of images has `encode_image`.
    """
    writes = "answer" if task.config.data.texts == "answers" else "caption"
    methods = {"classes": "classify", "answers": "answer", "captions": writes, "matching": "match"}
    methods |= {"synchronization": "sync_offset", "separation": "separate"}
    names = tuple(dict.fromkeys(method for word, method in methods.items() if word in task.taught))
    if writes in names and writes == "answer" and getattr(task.config.model, "qformer", None) is not None:
        names = (*names, "caption")
    names = (*names, *(["transcribe"] if "caption" in names and task.seen == "audio" else []))
    if is_lone_image_tower(task.config.model):
        return ("encode_image", *names)
    if "embeddings" not in task.taught or task.num_image_embeddings != 1:
        return names
    modalities = tuple(dict.fromkeys(name for first, second, _ in task.pairs for name in (first, second)))
    return (*(f"encode_{name}" for name in modalities), *(["zero_shot"] if "text" in modalities else []), *names)


def is_lone_image_tower(model: ModelConfig) -> bool:
    """Whether a model is a tower of images by itself, with a classifier or without, whose vectors are of use."""
    return isinstance(model, FusedConfig) and isinstance(model.fusion, AloneConfig) and model.image is not None


# What a model is evaluated by that has not learned to embed, though it may have embeddings, too.
_WITHOUT_EMBEDDINGS = {"classes", "answers", "captions", "matching", "masked_words", "masked_patches"}
_WITHOUT_EMBEDDINGS |= {"synchronization"}


def abilities(task: Any) -> frozenset[str]:
    """What an evaluation may need of a task's model: its capabilities, and what it `serves`.

    `embeddings`, of which an image may have several, are there where they are trained; `encode_image` is one an image,
    or of what the model sees in its place; `features` are there with that, without texts, too, and of a classifier with
    a head, which reads them; `modalities` are contrasted with one another.
    """
    names = {*capabilities(task), *task.model.serves} - {"embeddings"}
    if f"encode_{task.seen}" in names and "encode_text" in names:
        names.add("encode_image")
    model = task.config.model
    has_head = isinstance(model, FusedConfig) and not isinstance(model.fusion, LateConfig) and "classify" in names
    if has_head or f"encode_{task.seen}" in names:
        names.add("features")
    is_trained = "embeddings" in task.taught or task.taught.isdisjoint(_WITHOUT_EMBEDDINGS)
    if is_trained and any((first, second) != (task.seen, "text") for first, second, _ in task.pairs):
        names.add("modalities")
    if is_trained and task.num_image_embeddings and task.settings.tokenizer is not None:
        names.add("embeddings")
    return frozenset(names)


def check(task: Any, ability: str, caller: str) -> None:
    """Checks that a model has a capability.

    Args:
      task: of the model.
      ability: a name that `capabilities` may give.
      caller: what needs it, as a message begins.

    Raises:
      UserError: it cannot, with what it can.
    """
    known = capabilities(task)
    if ability not in known:
        raise UserError(
            f"{caller} is not for {describe_model(task.config)}; it can {', '.join(known) or 'be trained further'}"
        )


def describe_model(config: RunConfig) -> str:
    """A model in a few words, by its kind and its training."""
    trained = ", ".join(load_objective.weights(config))
    return f"model.kind={config.model.kind!r}" + (f" trained with {trained}" if trained else "")
