"""Class names and prompt templates for zero-shot classification: those published for known datasets, and one's own.

The published ones lie in `data/classes/`, a JSON file for each dataset that says which package and version they are
from; the packages' licences lie beside them (`scripts/extract_prompts.py` made them). A file of one's own is JSON:

    ["a photo of a {c}.", ...]                               templates for the dataset's own class names
    {"CLASS": ["a prompt", ...], ...}                        finished prompts for each class (CuPL, Pratt et al. 2023)
    {"classes": [...], "templates": [...] or {...}}          both; "codes" may give the folder names of the classes
    {"DATASET": any of these, ...}                           for several datasets, as CLIP_benchmark's files
"""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from mmjax.data.formats.input_files import TEMPLATES
from mmjax.data.record import Record
from mmjax.data.source_protocols import HasClassCodes, MayBeMultilabel, Source
from mmjax.errors import UserError, did_you_mean
from mmjax.evaluation.evaluators.zero_shot import Templates, class_prompts
from mmjax.io import paths

KEEP_SOURCE = "own"
_FOLDER = resources.files("mmjax.data") / "classes"
_PREFIX = re.compile(r"^(wds|vtab|tfds|webdataset)")


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Class names and templates.

    Attributes:
      name: the dataset's, or the file's path.
      class_names: in the order of the labels; None where the dataset's own are to be used.
      templates: for all classes, or prompts for each class by its name; see `zero_shot.class_prompts`.
      codes: folder names of the classes (ImageNet's WordNet ids), in the order of the labels; may be empty.
      orders: where libraries number the classes differently: the names of the orders, which one has to choose among for
        data whose classes are numbers.
      origin: where names and templates were published.
    """

    name: str
    class_names: tuple[str, ...] | None
    templates: Templates
    codes: tuple[str, ...] = ()
    orders: tuple[str, ...] = ()
    origin: str = ""

    def digest(self) -> str:
        """A hash of class names, templates and codes."""
        content = json.dumps([self.class_names, self.templates, self.codes], ensure_ascii=False)
        return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def known() -> list[str]:
    """The datasets whose class names and templates come with mmjax."""
    return sorted(path.name.removesuffix(".json") for path in _FOLDER.iterdir() if path.name.endswith(".json"))


def find(dataset: str) -> str | None:
    """The known name of a dataset as people write it (`oxford_iiit_pet`, `wds_vtab-pets`, `CIFAR-10`), or None."""
    return _names().get(_plain(dataset))


def load(name_or_path: str, *, dataset: str = "", field: str = "prompts") -> Prompts:
    """Reads prompts.

    Args:
      name_or_path: a known dataset (`imagenet1k`; `imagenet1k:simple` has the seven templates that OpenAI found to do
        nearly as well as all eighty; `food101:torchvision` has the classes as that library numbers them), or a JSON
        file, see above.
      dataset: which entry of a file for several datasets to take.
      field: config field to name in errors.

    Raises:
      UserError: no such name or file, or a file that is not of one of the forms above.
    """
    if name_or_path.endswith(".json"):
        return _from_file(name_or_path, dataset, field)
    name, _, kind = name_or_path.partition(":")
    dataset_name = find(name)
    if dataset_name is None:
        raise UserError(
            f"{field}={name_or_path!r} is not known{did_you_mean(name, [*known(), KEEP_SOURCE])}; give a .json file,"
            f" {KEEP_SOURCE!r} for the dataset's own, or one of: {', '.join(known())}"
        )
    content = _read(dataset_name)
    orders = content.get("orders", {})
    if kind and kind not in orders and (kind != "simple" or "simple_templates" not in content):
        kinds = "; only ':simple' can follow, for the seven templates" if "simple_templates" in content else ""
        kinds = f"; {', '.join(map(repr, orders))} can follow, for whose order it is" if orders else kinds
        raise UserError(f"{field}={name_or_path!r}: {dataset_name!r} has no {kind!r} templates{kinds}")
    key = "simple_templates" if kind == "simple" else "templates"
    return Prompts(
        name=f"{dataset_name}:{kind}" if kind else dataset_name,
        class_names=tuple(orders.get(kind, content["classes"])),
        templates=tuple(content[key]),
        codes=tuple(content.get("codes", ())),
        orders=() if kind in orders else tuple(orders),
        origin=f"classes: {content['classes_from']}; templates: {content[key + '_from']}",
    )


class PromptedSource:
    """A source with other class names and templates: its examples, captioned with their class's first prompt."""

    def __init__(self, source: Source, prompts: Prompts):
        self.source, self.name, self.prompts = source, source.name, prompts
        self.class_names, self.templates = list(prompts.class_names or ()), prompts.templates
        self.is_multilabel = isinstance(source, MayBeMultilabel) and source.is_multilabel
        self._captions = [texts[0] for texts in class_prompts(self.class_names, self.templates)]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Record:
        record = self.source[index]
        labels = record["labels"] if "labels" in record else [record["label"]] if "label" in record else None
        if labels is None:
            return record
        return Record(**{**record, "captions": [self._captions[label] for label in labels] or [""]})


def apply(source: Source, choice: str = "", *, dataset: str = "", field: str = "prompts") -> Source:
    """The source with the class names and templates that it is to be evaluated with.

    Args:
      source: as it was opened.
      choice: a known name or a file, see `load`; `own` leaves the source as it is. By default classes that are called
        by WordNet ids, or of a dataset with a known name by numbers or by their known names, get the published names,
        and the published templates where the source brings none of its own.
      dataset: its name, where the source's is another.
      field: config field to name in errors.

    Returns:
      A `PromptedSource` source, or the source itself where nothing is changed.

    Raises:
      UserError: as `load`, or the names do not fit the source's classes.
    """
    name = dataset or source.name
    if choice == KEEP_SOURCE:
        return source
    codes = source.class_codes if isinstance(source, HasClassCodes) else None
    their_names = source.class_names if codes is None else codes
    if choice:
        prompts = load(choice, dataset=name, field=field)
        names = _match(source.class_names if prompts.class_names is None else their_names, prompts)
        if names is None:
            raise UserError(
                f"{field}={choice!r}: {source.name!r} has {len(their_names or ())} classes (the first is"
                f" {(their_names or [''])[0]!r}), and these name {len(prompts.class_names or ())} others;"
                " choose the dataset's, or write them to a .json file"
            )
        return PromptedSource(source, dataclasses.replace(prompts, class_names=tuple(names)))
    if not their_names:
        return source
    known_codes = _read("imagenet1k")["codes"]
    known_name = "imagenet1k" if set(their_names) <= set(known_codes) else find(name)
    prompts = None if known_name is None else load(known_name)
    names = None if prompts is None else _match(their_names, prompts, by_position=False)
    if prompts is None or names is None:
        return source
    if source.templates and list(source.templates) not in TEMPLATES.values():
        prompts = dataclasses.replace(prompts, templates=list(source.templates))
    return PromptedSource(source, dataclasses.replace(prompts, class_names=tuple(names)))


def _match(names: Sequence[str] | None, prompts: Prompts, *, by_position: bool = True) -> list[str] | None:
    """The prompts' name for each of a source's classes, or None where they are not names of these classes."""
    theirs = prompts.class_names
    if theirs is None:
        return list(names) if names else None
    if not names:
        return list(theirs)
    by_code = dict(zip(prompts.codes, theirs, strict=bool(prompts.codes)))
    if by_code and set(names) <= set(by_code):
        return [by_code[code] for code in names]
    if all(name.isdecimal() for name in names):
        if prompts.orders:
            raise UserError(
                f"{prompts.name!r}: the data's classes are numbers, which {' and '.join(prompts.orders)} give to other"
                f" classes; set prompts={f'{prompts.name}:{prompts.orders[0]}'!r} or"
                f" {' or '.join(repr(f'{prompts.name}:{order}') for order in prompts.orders[1:])}"
            )
        numbers = [int(name) for name in names]
        # Folders are sorted as text ("10" before "2"), and some datasets count from 1.
        fit = len(set(numbers)) == len(names) and max(numbers) <= len(theirs)
        if fit and (0 in numbers) != (len(theirs) in numbers):
            first = 0 if 0 in numbers else 1
            return [theirs[number - first] for number in numbers]
    else:
        fit = False
    by_name = {_plain(name): name for name in theirs}
    if len(by_name) == len(theirs) and all(_plain(name) in by_name for name in names):
        return [by_name[_plain(name)] for name in names]
    if fit and not {0, len(theirs)} & set(numbers):
        raise UserError(
            f"{prompts.name!r} names {len(theirs)} classes, and the data's are numbers from {min(numbers)} to"
            f" {max(numbers)}, which may count from 0 or from 1; set prompts='own', or give a .json file with"
            " 'classes', their 'codes' (the numbers) and 'templates'"
        )
    if len(names) != len(theirs) or not by_position:
        return None
    # By position, unless a name says that it stands elsewhere.
    positions = {_plain(name): position for position, name in enumerate(theirs)}
    contradicted = any(positions.get(_plain(name), position) != position for position, name in enumerate(names))
    return None if contradicted and len(positions) == len(theirs) else list(theirs)


def _from_file(path: str, dataset: str, field: str) -> Prompts:
    where = f"{field}={path!r}"
    try:
        content = json.loads(paths.as_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{where}: there is no such file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: not readable as JSON ({error})") from error
    if isinstance(content, dict) and "templates" not in content:
        # For several datasets: the entry of this one. A class may be called as a dataset is, but has no nested lists.
        entries = {
            key: value for key, value in content.items() if isinstance(value, dict) or find(key) or key == dataset
        }
        if len(entries) == len(content) and content:
            name = find(dataset)
            chosen = [key for key in entries if key == dataset or (name and find(key) == name)]
            if not chosen:
                raise UserError(f"{where}: has no entry for {dataset!r}; it has {', '.join(map(repr, entries))}")
            content = entries[chosen[0]]
    names = codes = None
    templates: Any = content
    if isinstance(content, dict) and "templates" in content:
        templates, names, codes = content["templates"], content.get("classes"), content.get("codes")
    for key, value in (("classes", names), ("codes", codes)):
        if value is not None and not _are_strings(value):
            raise UserError(f"{where}: {key!r} must be a list of strings")
    if isinstance(templates, dict):
        for name, texts in templates.items():
            if not _are_strings(texts):
                raise UserError(f"{where}: the prompts of {name!r} must be a list of at least one string")
    elif not _are_strings(templates):
        raise UserError(f"{where}: templates must be a list of strings with {{c}}, or prompts by class")
    if codes is not None and len(codes) != len(names or ()):
        raise UserError(f"{where}: {len(codes)} codes for {len(names or ())} classes; give one for each")
    prompts = Prompts(path, tuple(names) if names else None, templates, tuple(codes or ()), origin=path)
    class_prompts(names or _keys(templates) or ["x"], templates)
    return prompts


def _keys(templates: Templates) -> list[str]:
    return list(templates) if isinstance(templates, Mapping) else []


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def _plain(name: str) -> str:
    """Letters and digits alone, without what marks a dataset's packaging."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return _PREFIX.sub("", _PREFIX.sub("", plain)) or plain


@functools.cache
def _read(name: str) -> dict[str, Any]:
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@functools.cache
def _names() -> dict[str, str]:
    return {_plain(alias): name for name in known() for alias in (*_read(name)["aliases"], name)}
