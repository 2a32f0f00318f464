"""Classes of a classifier: their names, from its training data, and what the labels of other data are among them."""

from collections.abc import Sequence

from mmjax.data.source_protocols import MayBeMultilabel, Source
from mmjax.errors import UserError
from mmjax.models.fusion.config import FusedConfig
from mmjax.tasks.first_records import first_records

_SHOWN = 3  # names in a message


def names_of_sources(model: FusedConfig, sources: Sequence[Source]) -> tuple[str, ...]:
    """The names of a model's classes, which all sources of its training data have.

    Raises:
      UserError: a source has none, another number of them, other ones than the first, or several an example.
    """
    first = sources[0]
    for source in sources:
        names = source.class_names or ()
        if isinstance(source, MayBeMultilabel) and source.is_multilabel:
            raise UserError(
                f"data.train: an example of {source.name!r} may show several classes, and objectives.classify learns"
                " one of each; give data with one label an example"
            )
        if not names:
            raise UserError(
                f"data.train: {source.name!r} has no classes, which objectives.classify learns; give folder:DIR, tars"
                " with .cls, a table with a column of labels (data.label_key names it), or such as 'digits'"
            )
        if len(names) != model.classes:
            raise UserError(f"model.classes={model.classes}, but {source.name!r} has {len(names)}; set it to that")
        if list(names) != list(first.class_names or ()):
            raise UserError(
                f"data.train: {source.name!r} has the classes {_listed(names)}, and {first.name!r} has"
                f" {_listed(first.class_names or ())}; all sources of one training have the same, in one order"
            )
    return tuple(first.class_names or ())


def check_images(sources: Sequence[Source]) -> None:
    """Checks that sources of a classifier of images have some among their first examples.

    Raises:
      UserError: one has none, but maybe an array of that name.
    """
    for source in sources:
        records = [record for record in first_records(source) if record is not None]
        if records and not any(record.get("image") is not None for record in records):
            known = ", ".join(name for name, entry in (records[0].get("modalities") or {}).items() if entry is not None)
            raise UserError(
                f"model.image: {source.name!r} has no images; it has {known or 'none'}; an array called 'image' is read"
                " with model.image=None"
            )


def numbers_in_model(class_names: Sequence[str], classes: int, source: Source, field: str = "data.eval") -> list[int]:
    """For each class of a source its number in the model: that of the class of its name.

    Args:
      class_names: of the model; none where its checkpoint does not know them, which older ones do not.
      classes: how many it has.
      source: of labels.
      field: that names the source, to begin errors with.

    Raises:
      UserError: the source has classes that the model does not.
    """
    names = list(source.class_names or ())
    if not class_names:
        if len(names) > classes:
            raise UserError(f"{field}: {source.name!r} has {len(names)} classes, more than the model's {classes}")
        return list(range(len(names)))
    if names == list(class_names):  # some of which may be called alike
        return list(range(len(names)))
    numbers = {name: number for number, name in enumerate(class_names)}
    if unknown := [name for name in names if name not in numbers]:
        raise UserError(
            f"{field}: {len(unknown)} of the {len(names)} classes of {source.name!r} are none of the model's, such as"
            f" {unknown[0]!r}; it was trained to tell {_listed(class_names)}: name them alike (classnames.txt)"
        )
    return [numbers[name] for name in names]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
