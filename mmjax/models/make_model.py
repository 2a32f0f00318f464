"""Models by kind: what `model.kind` in a config may be."""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from mmjax import plugin_calls, registry
from mmjax.errors import did_you_mean


class Model(nn.Module, kw_only=True):
    """What `model.kind` may name.

    Attributes:
      dtype: compute type; embeddings and logits are float32.
      serves: what objectives may need of the model: `embeddings`, `matching`, `masked_words`, `masked_patches`,
        `captions`, `answers`, `classes`, `separation`.
      attention_maps: what the model can show of its attention, of the names in `mmjax.tasks.attention_maps`.
    """

    dtype: DTypeLike = jnp.float32

    serves: ClassVar[tuple[str, ...]] = ()
    attention_maps: ClassVar[tuple[str, ...]] = ()


# The methods by which a model does what it serves.
SERVES: Mapping[str, tuple[str, ...]] = {
    "embeddings": ("image_embedding", "text_embedding"),
    "matching": ("encode_image", "encode_text", "fuse", "match_logits"),
    "answers": ("encode_image", "encode_text", "fuse", "answer_logits"),
    "masked_words": ("encode_image", "encode_text", "fuse", "word_logits"),
    "masked_patches": ("encode_image", "encode_text", "fuse", "patch_pixels"),
    "captions": ("encode_image", "caption_logits", "start", "step", "take"),
    "classes": ("__call__",),
    "separation": ("mask_logits",),
}
# The maps that a model can show, with the methods that say where its weights are; see `tasks.attention_maps`.
ATTENTION_MAPS: Mapping[str, tuple[str, ...]] = {
    "image": ("image_readout",),
    "similarity": ("embed_image", "embed_text"),
    "read": ("word_attention",),
    "written": ("word_attention",),
}


# The methods that those of the bases call, where a model does not replace them; see `models.image_text`.
_HOOKS: Mapping[str, tuple[str, ...]] = {
    "image_embedding": ("encode_image", "embed_image"),
    "text_embedding": ("encode_text", "embed_text"),
    "embed_image": ("project_image",),
    "embed_text": ("project_text",),
    "encode_text": ("run_text",),
    "fuse": ("run_fusion",),
    "match_logits": ("pool_fused",),
    "answer_logits": ("pool_fused",),
    "caption_logits": ("run_writer",),
}


def model_class(kind: str) -> type[Model]:
    """The class of a kind of model, a name in `registry.models`.

    Raises:
      UserError: there is none; or what a plugin registered is no model, or lacks what it says that it has.
    """
    cls = registry.models.load(kind, where=f"model.kind={kind!r}")
    if kind in registry.models.added():
        _check_class(kind, cls)
    return cls


def _missing(cls: type[Any], methods: Iterable[str]) -> Iterator[str]:
    """Those of the methods, and of those that they call, that a class does not have."""
    for method in methods:
        classes = [base for base in cls.__mro__ if method in vars(base)]
        if not classes or getattr(vars(classes[0])[method], "__isabstractmethod__", False):
            yield method
        elif classes[0].__module__.startswith("mmjax."):
            yield from _missing(cls, _HOOKS.get(method, ()))


@functools.cache
def _check_class(kind: str, cls: Any) -> None:
    """Checks that a plugin's model is one, and has the methods of what it says that it serves and shows.

    It may serve other things, too, which an objective of a plugin needs.

    Raises:
      UserError: it is none, or lacks one.
    """
    whose = functools.partial(plugin_calls.wrong, registry.models, kind, cls)
    if not (isinstance(cls, type) and issubclass(cls, Model)):
        name = getattr(cls, "__name__", repr(cls))
        raise whose(f"{name} is no Model; derive it from ImageTextModel, ContrastiveModel, FusionModel or WritingModel")
    others = [registry.objectives.load(name, where=name) for name in registry.objectives.added()]
    needed = {need: () for one in others for need in getattr(one, "needs", ())}
    for field, methods in (("serves", {**needed, **SERVES}), ("attention_maps", ATTENTION_MAPS)):
        names = getattr(cls, field)
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise whose(f"{cls.__name__}.{field}={names!r} wants a tuple of texts, such as ('{next(iter(methods))}',)")
        for name in names:
            if name not in methods:
                near = did_you_mean(name, methods)
                raise whose(f"{cls.__name__}.{field}: {name!r} is not known{near}; choose among {', '.join(methods)}")
            for method in _missing(cls, methods[name]):
                raise whose(
                    f"{cls.__name__}.{field} has {name!r}, but {cls.__name__} has no method {method}; give it one"
                )


def make_model(settings: Mapping[str, Any], dtype: DTypeLike, kernels: Mapping[str, str]) -> Model:
    """Makes a model.

    Args:
      settings: `kind` (two towers where it is left out) and the settings of its class.
      dtype: compute type.
      kernels: of the towers `image` and `text`, where it has them: `xla` or `cudnn`.

    Raises:
      UserError: the module of a plugin lacks a field of its dataclass, or has one without a default that is not there.
    """
    settings = dict(settings)
    kind = settings.pop("kind", "two_tower")
    cls = model_class(kind)
    attention: dict[str, Any] = {f"{tower}_attention": kernel for tower, kernel in kernels.items()}
    if kind in registry.models.added():
        check_fields(registry.models, kind, cls, {*settings, *attention})
    return cls(**settings, dtype=dtype, **attention)


def check_fields(known: registry.Registry, name: str, cls: type[Any], names: Collection[str]) -> None:
    """Checks that a plugin's flax module has the fields that it is made with, and no others without a default.

    Raises:
      UserError: naming the field.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    if unknown := [field for field in names if field not in fields]:
        raise plugin_calls.wrong(
            known, name, cls, f"{cls.__name__} has no field {unknown[0]!r}, which its config has; give it one"
        )
    needed = [name for name, field in fields.items() if field.init and field.default is dataclasses.MISSING]
    if missing := [
        field for field in needed if field not in names and fields[field].default_factory is dataclasses.MISSING
    ]:
        raise plugin_calls.wrong(
            known, name, cls, f"{cls.__name__}.{missing[0]} has no default, and its config has no such field; add it"
        )
