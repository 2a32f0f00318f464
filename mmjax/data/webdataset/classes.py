"""Classes of a set of tars: classnames.txt beside them, and what says an example's class."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from mmjax.data.bad_example import BadExample
from mmjax.data.column_inference import label_text
from mmjax.data.formats.class_records import check_templates, log_equal_names
from mmjax.data.formats.wordnet_ids import readable_names
from mmjax.data.record import stable_id
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.webdataset.members import Lookup
from mmjax.errors import UserError


class TarClasses(NamedTuple):
    """The classes of a set.

    Attributes:
      names: by number.
      templates: of their prompts.
      ids: of the records that show them.
      codes: that stood for the names; None where the names did.
      label_key: of an example's class, see `Lookup`.
    """

    names: list[str]
    templates: list[str]
    ids: list[int]
    codes: list[str] | None
    label_key: str

    def label(self, lookup: Lookup, name: str) -> int:
        """The number of an example's class: what is written, or that of a name that is.

        Args:
          lookup: of the example.
          name: of the example, for errors.

        Raises:
          BadExample: `no_caption`, where there is none, or it is none of the classes.
        """
        value = lookup(self.label_key)
        text = value.decode("utf-8", "backslashreplace").strip() if isinstance(value, bytes) else label_text(value)
        names = self.codes or self.names
        if text.isdecimal() and len(text) <= 18 and int(text) < len(names):
            return int(text)
        if text and text in names:
            return names.index(text)
        shown = "missing" if value is None else repr(text[:40])
        raise BadExample(
            "no_caption",
            f"{name}: .{self.label_key} is {shown}, no number of a class of {len(names)}, nor a name",
        )


def find_classes(
    lines: Callable[[str], Sequence[str]],
    key_sets: Mapping[str, int],
    options: SourceOptions,
    where: str,
    *,
    kind: str,
    is_multilabel: bool,
) -> TarClasses | None:
    """The classes of a set; None where it has none.

    Args:
      lines: of a file beside the tars, by its name; none where there is no such file.
      key_sets: how many examples have which endings (joined by ";").
      options: `label_key` and `classes`; a model that learns so many has numbers for names where no file has any.
      where: the config field and its value, to begin errors with.
      kind: of most inputs, see `kind_of`.
      is_multilabel: whether a `.npy` marks an example's classes.

    Raises:
      UserError: no example has what `label_key` names, or has it of a class without a name.
    """
    label_key = options.label_key or "cls"
    ending = "npy" if is_multilabel else label_key.partition(":")[0].lower()
    endings = {ending for joined in key_sets for ending in joined.split(";")}
    if ending not in endings:
        if not options.label_key:
            return None
        raise UserError(
            f"{where}: {options.keys_field}.label_key={label_key!r}: examples have {', '.join(sorted(endings))}; name"
            " what is there"
        )
    names = list(lines("classnames.txt"))
    if not names and options.classes and not is_multilabel:
        names = [str(number) for number in range(options.classes)]
    if not names:
        return None
    templates = check_templates(lines("zeroshot_classification_templates.txt"), where, kind)
    readable = readable_names(names)
    if not readable:
        log_equal_names(names, where)
    ids = [stable_id("class", name) for name in names]
    return TarClasses(readable or names, templates, ids, names if readable else None, label_key)


def check_labels(classes: TarClasses, examples: Iterable[tuple[str, Lookup]], where: str) -> None:
    """Looks at the labels of some examples.

    Args:
      classes: of the set.
      examples: names and members, of those that say a class.
      where: the config field and its value, to begin errors with.

    Raises:
      UserError: one is none of the classes.
    """
    for name, lookup in examples:
        try:
            classes.label(lookup, name)
        except BadExample as error:
            raise UserError(
                f"{where}: {error.detail}; set model.classes to as many as there are, and give each a line of"
                " classnames.txt beside the tars"
            ) from error
