"""Groups with other fields by what is registered: models, encoders and fusions by `kind`, and what plugins add."""

import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from mmjax import registry
from mmjax.config.field_docs import field_docs
from mmjax.config.field_values import describe, fitting, options_of, type_mistake
from mmjax.errors import UserError, validate_choice
from mmjax.evaluation.config import EvalConfig, SuiteConfig
from mmjax.models import config as models
from mmjax.models import image_config, slot_config
from mmjax.models.fusion import config as fusion
from mmjax.models.image_config import ConvEncoderConfig, ConvTowerConfig
from mmjax.models.towers_config import TowersConfig
from mmjax.objectives.config import LossConfig, ObjectiveWeights
from mmjax.registry.named_items import Registry
from mmjax.training.config import OptimizerConfig

# Of captioners, what `decoder` says.
DECODERS = {"transformer": models.CaptionerConfig, "lstm": models.LSTMCaptionerConfig}
# The kind of a slot's encoder where none is given: that of the slot's own name.
OF_SLOT = "SLOT"
# Groups that have fields of their own by kind: where the kinds are, and the kind where none is given.
KINDS: dict[type, tuple[Registry, str]] = {
    models.ModelConfig: (registry.models, models.TwoTowerConfig.kind),
    image_config.ImageSlotConfig: (registry.encoders, fusion.ImageEncoderConfig.kind),
    slot_config.EncoderConfig: (registry.encoders, ""),
    slot_config.SlotConfig: (registry.encoders, OF_SLOT),
    slot_config.TowerSlotConfig: (registry.encoders, OF_SLOT),
    fusion.FusionConfig: (registry.fusions, ""),
}
# Groups to whose fields (`added` in the dataclass) plugins add theirs, by the name of what they register.
EXTENSIBLE: dict[type, Registry] = {
    OptimizerConfig: registry.optimizers,
    ObjectiveWeights: registry.objectives,
    LossConfig: registry.objectives,
    EvalConfig: registry.evaluations,
    SuiteConfig: registry.evaluations,
}


def added_fields(cls: type) -> dict[str, Any]:
    """The types of the fields that plugins add to a group, by name: weights, or groups of fields.

    Raises:
      UserError: one has the name of a field that is there.
    """
    known = EXTENSIBLE.get(cls)
    if known is None:
        return {}
    names = known.added()
    if cls is not ObjectiveWeights:
        names = [name for name in names if known.config_class(name, where=name) is not None]
    for name in names:
        if name in cls.__dataclass_fields__:
            raise UserError(
                f"{known.kind} {name!r} of {known.module(name)} has the name of a field of {cls.__name__}; give it"
                " another name (MMJAX_INSTALLED_PLUGINS=0 leaves installed plugins out)"
            )
    if cls is ObjectiveWeights:
        return dict.fromkeys(names, float)
    classes = {name: known.config_class(name, where=name) for name in names}
    for name, config in classes.items():
        _check_class(config, f"{known.kind} {name!r} of {known.module(name)}")
    return classes


def check_added() -> None:
    """Checks the dataclasses of all that plugins have registered.

    Raises:
      UserError: naming the plugin's module, and the field.
    """
    for cls in EXTENSIBLE:
        added_fields(cls)
    for base, (known, _) in KINDS.items():
        for kind in known.added():
            if base is not image_config.ImageSlotConfig:
                _class_of(base, kind)


@functools.cache
def _check_class(cls: Any, origin: str, *, is_part: bool = False) -> None:
    """Checks that a plugin's dataclass is frozen, documents its fields, and that a config can hold them.

    Args:
      cls: the dataclass.
      origin: kind, name and module of what it is of.
      is_part: of a model, which has a kind; its fields need no default, and it may have groups by name or none.

    Raises:
      UserError: naming the field.
    """
    where = f"{origin}: config={cls.__name__}"
    if not cls.__dataclass_params__.frozen:
        raise UserError(f"{where} is not frozen; write @dataclass(frozen=True)")
    try:
        docs, hints = field_docs(cls), typing.get_type_hints(cls)
    except (OSError, TypeError) as error:
        raise UserError(f"{where} has no source to read its documentation from; put it in a file") from error
    except NameError as error:
        raise UserError(f"{where}: a type is not known ({error})") from error
    for field in dataclasses.fields(cls):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if not field.init:
            raise UserError(f"{where}: {field.name} has init=False, so no config can give it; make it a property")
        if not has_default and not is_part:
            raise UserError(f"{where}: {field.name} has no default; give one")
        if field.name not in docs:
            raise UserError(f"{where}: {field.name} is not documented; write a line in quotes under it")
        if hasattr(ConfigDict, field.name):
            raise UserError(f"{where}: {field.name} is the name of a method of every group of fields; take another")
        _check_field(field, hints[field.name], f"{where}: {field.name}", origin, is_part)
    _check_default(cls, where)


def _check_field(field: dataclasses.Field, expected: Any, where: str, origin: str, is_part: bool) -> None:
    """Checks the type of a field, and that its default is of that."""
    options = options_of(expected)
    if groups := [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]:
        if len(options) > 1 and not is_part:
            raise UserError(f"{where}: {expected} may be a group or not; make it a group, with a field that says so")
        if not any(issubclass(groups[0], base) for base in KINDS):
            _check_class(groups[0], origin, is_part=is_part)
        return
    if typing.get_origin(expected) is Mapping and is_part:
        expected = typing.get_args(expected)[1]
        if dataclasses.is_dataclass(expected):
            return
    if mistake := type_mistake(expected):
        raise UserError(
            f"{where}: {mistake}; take bool, int, float, str, None, Literal of texts, tuples of these, or a dataclass"
        )
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        default = field.default
    if default is dataclasses.MISSING:
        return
    if not list(fitting(expected, default)):
        raise UserError(f"{where}={default!r}, its default, wants {describe(expected)}")
    if type(default) is int and int not in options_of(expected):  # ml_collections would then take integers alone
        raise UserError(f"{where}={default!r}, its default, is an integer; write {float(default)}")


def _check_default(cls: Any, where: str) -> None:
    if all(field.default is not dataclasses.MISSING for field in dataclasses.fields(cls)):
        try:
            cls()
        except Exception as error:
            raise UserError(f"{where}: {cls.__name__}() fails: {type(error).__name__}: {error}") from error


def plugin_groups(fields: Mapping[str, Any]) -> Iterator[tuple[str, str, type]]:
    """The groups of fields of plugins in a run's config, which may be as an older version of one stored it.

    Yields:
      The group's path, the name of what has it, and its dataclass.
    """
    for group, cls in (("optimizer", OptimizerConfig), ("loss", LossConfig), ("eval", EvalConfig)):
        for name in EXTENSIBLE[cls].added():
            if config := EXTENSIBLE[cls].config_class(name, where=name):
                yield f"{group}.{name}", name, config
    model = fields.get("model")
    if isinstance(model, Mapping):
        yield from _plugin_parts("model", model)


def _plugin_parts(path: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, str, type]]:
    known = registry.models if path == "model" else registry.fusions if ".fusion" in path else registry.encoders
    kind = settings.get("kind")
    if isinstance(kind, str) and kind in known.added() and (config := known.config_class(kind, where=path)):
        yield path, kind, config
    for name, part in settings.items():
        if isinstance(part, Mapping):
            yield from _plugin_parts(f"{path}.{name}", part)


def classes(base: type) -> dict[str, type]:
    """The dataclasses of a group that has fields of its own, by kind.

    Args:
      base: a key of `KINDS`.
    """
    known, _ = KINDS[base]
    return {kind: _class_of(base, kind) for kind in (_of_images() if base is image_config.ImageSlotConfig else known)}


def _of_images() -> list[str]:
    """The encoders that may stand among towers as the one of images."""
    known, first = KINDS[image_config.ImageSlotConfig]
    ours = (kind for kind in known if kind not in known.added())
    return [
        first,
        *(kind for kind in ours if issubclass(_class_of(slot_config.EncoderConfig, kind), ConvEncoderConfig)),
    ]


def _class_of(base: type, kind: str) -> type:
    if base is image_config.ImageSlotConfig:
        is_first = kind == KINDS[base][1]
        encoder = _class_of(slot_config.EncoderConfig, kind)
        return image_config.ImageTowerConfig if is_first else _in_slot(ConvTowerConfig, encoder)
    if issubclass(base, slot_config.SlotConfig):
        return _in_slot(base, _class_of(slot_config.EncoderConfig, kind))
    known, _ = KINDS[base]
    cls = known.config_class(kind, where="kind")
    if cls is None or not issubclass(cls, base) or getattr(cls, "kind", None) != kind:
        raise UserError(
            f"{known.kind} {kind!r} of {known.module(kind)} is registered with config={getattr(cls, '__name__', cls)};"
            f" its fields need a dataclass of {base.__name__} with kind = {kind!r}"
        )
    if kind in known.added():
        _check_class(cls, known.describe(kind), is_part=True)
        if issubclass(cls, fusion.EncoderConfig) and not _is_tuple(cls.ranks, int):
            raise UserError(f"{known.describe(kind)}: ranks={cls.ranks!r} of {cls.__name__} wants a tuple such as (2,)")
    return cls


@functools.cache
def _in_slot(base: type, encoder: type) -> type:
    """The dataclass of an encoder's fields and those of the slot that it fills."""
    namespace: dict[str, Any] = {"__doc__": encoder.__doc__, "__module__": encoder.__module__}
    bases = (base, encoder)
    return dataclasses.make_dataclass(encoder.__name__, [], bases=bases, namespace=namespace, frozen=True, kw_only=True)


def _is_tuple(value: Any, of: type) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, of) for item in value)


def class_of_kind(base: type, settings: Mapping[str, Any], field: str) -> type:
    """The dataclass of a group that has fields of its own.

    Args:
      base: a key of `KINDS`.
      settings: the group's, with its `kind`.
      field: where it stands in the config.

    Raises:
      UserError: an unknown kind, or none where one is needed.
    """
    known, default = KINDS[base]
    default = field.rpartition(".")[2] if default == OF_SLOT else default
    if "kind" not in settings and not default:
        raise UserError(f"{field}.kind is missing; choose one of: {', '.join(known)}")
    if base is image_config.ImageSlotConfig:
        return _class_of(base, validate_choice(f"{field}.kind", settings.get("kind", default), _of_images()))
    cls = _class_of(base, known.validate_choice(f"{field}.kind", settings.get("kind", default)))
    if cls is models.CaptionerConfig:
        return DECODERS[validate_choice(f"{field}.decoder", settings.get("decoder", "transformer"), DECODERS)]
    # Two towers are CLIP's where no slot beside images and texts is filled.
    if cls is models.TwoTowerConfig and any(settings.get(name) is not None for name in slot_config.SLOTS):
        return TowersConfig
    return cls
