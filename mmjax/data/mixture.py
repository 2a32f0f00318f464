"""Mixtures of sources: the strings of `data.train` and `data.eval`.

    digits[/SPLIT]  shapes[/SPLIT]      embedded; SPLIT is train (default) or test
    questions[/SPLIT]                   the same scenes with questions and answers
    sensors[/SPLIT]                     four synthetic modalities and a label
    moving[/SPLIT]  actions[/SPLIT]     videos of two moving objects with their sounds; with a label
    tones[/SPLIT]                       spoken-like sounds of invented words with their transcripts
    synthetic[/N]                       N noise images, to measure training without data
    pairs:FILE.{csv,tsv,jsonl,json}     images and captions in a table, or COCO's captions
    files:DIR                           images with captions in files of the same name beside them
    librispeech:DIR                     LibriSpeech's utterances with their transcripts
    folder:DIR[,list=FILE]              images in one sub-folder per class, or those of them that a file lists
    karpathy:FILE.json/SPLIT            COCO, Flickr8k, Flickr30k by Karpathy's splits
    vqa:FILE.json                       questions and answers about images, as VQA v2 or JSON Lines have them
    sugarcrepe:FILE.json                captions with hard negatives, for evaluation
    winoground:FILE.jsonl               two images and two captions of the same words, for evaluation
    wds:PATTERN                         WebDataset tars: DIR/{00000..01242}.tar, a folder, gs://...; PATTERN::PATTERN
    parquet:PATTERN                     rows of Parquet files
    tfds:NAME/SPLIT  tfds:DIR/SPLIT     sets that TensorFlow Datasets has prepared as ArrayRecord
    arrayrecord:PATTERN                 tf.train.Example protos in ArrayRecord files
    hf:DIR[/SPLIT]                      what Hugging Face datasets' save_to_disk wrote

Several are joined by "+"; for training each may have a weight after "@": `shapes@0.5+digits@0.5`. A "+" or "@" inside a
path is left alone unless what follows reads as a source or, at the end, as a number. `image_key`, `caption_keys`
and `label_key` are for all sources of a mixture, or have a part for each, separated by "|": `txt|title`.
"""

import dataclasses
import functools
import math
import os
import re
from typing import Any, Protocol, runtime_checkable

from mmjax import plugin_calls, registry
from mmjax.data.bad_example import BadExample
from mmjax.data.config import DataConfig
from mmjax.data.fitting_source import fitting_source
from mmjax.data.record import record_mistake
from mmjax.data.source_protocols import DEFAULT_OPTIONS, HasHardNegatives, Source, SourceOptions
from mmjax.data.table_columns import FIELD, parse_columns
from mmjax.data.text.text_encoding import check_encoding
from mmjax.errors import UserError, validate_choice
from mmjax.io.paths import check_storage

_FIRST = 3  # examples of a plugin's source that are looked at before it is used
_LOCAL = ("tfds", "arrayrecord")  # these check themselves that their files are local
_CONFUSED = ("wds", "parquet", "pairs", "files", "folder", "hf", "arrayrecord")  # sources of one another's paths

_WEIGHT = re.compile(r"(.*)@([+-]?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?)", re.IGNORECASE)


@runtime_checkable
class Keys(Protocol):
    """The fields of a record that hold image, captions and class, see `DataConfig`."""

    @property
    def image_key(self) -> str: ...
    @property
    def caption_keys(self) -> str: ...
    @property
    def label_key(self) -> str: ...


def make_options(
    data: DataConfig,
    *,
    image_size: int = DEFAULT_OPTIONS.image_size,
    classes: int = 0,
    eval_keys: Keys | None = None,
) -> SourceOptions:
    """How sources are read.

    Args:
      data: the run's.
      image_size: pixels of a side of the images that the model sees.
      classes: of a model that learns labels; 0 for any other.
      eval_keys: those of `data.eval`, which has keys of its own; None for `data.train`.
    """
    keys = data if eval_keys is None else eval_keys
    columns = parse_columns(data.table.columns)
    texts = tuple(name for name, kind in columns.items() if kind == "text")
    if texts and keys.caption_keys not in ("", "none"):
        field = "data" if eval_keys is None else "eval"
        raise UserError(
            f"{field}.caption_keys={keys.caption_keys!r}, but the texts are those of {FIELD}={data.table.columns!r};"
            " leave one of them out"
        )
    # What an evaluation leaves out changes its result.
    return SourceOptions(
        max_bad_fraction=data.max_bad_fraction if eval_keys is None else 0.0,
        keys_field="data" if eval_keys is None else "eval",
        image_key=keys.image_key,
        caption_keys="none" if texts else keys.caption_keys,
        label_key=keys.label_key,
        classes=classes,
        columns=tuple(columns),
        text_columns=texts,
        encoding=check_encoding(data.encoding),
        table_paths=data.table_paths,
        separator=data.separator,
        order=data.order,
        cache=data.cache,
        cache_gb=data.cache_gb,
        retry_seconds=data.retry_seconds,
        image_size=image_size,
    )


def open_source(spec: str, options: SourceOptions = DEFAULT_OPTIONS, *, field: str = "data.train") -> Source:
    """Opens one source.

    Args:
      spec: such as "digits/test" or "pairs:coco.tsv"; no weight. A source may ignore keys that it has no use for.
      options: how to read it.
      field: config field to name in errors.

    Raises:
      UserError: on an unknown name or split, and on anything wrong with the files.
    """
    (options,) = options_by_source(options, 1)
    return _open(spec, options, field)


def _open(spec: str, options: SourceOptions, field: str) -> Source:
    source = _make(spec, options, field)
    parts = ("name", "class_names", "templates", "__len__", "__getitem__")
    if missing := [part for part in parts if not hasattr(source, part)]:
        raise UserError(f"{field}={spec!r}: {type(source).__name__} is no source, as it has no {missing[0]}")
    name = re.split("[:/]", spec)[0]
    if name in registry.sources.added():
        _check_added(name, source)
    return source


def _check_added(name: str, source: Any) -> None:
    """Checks the length and the first examples of a plugin's source.

    Raises:
      UserError: it fails, for the length or all of these examples, or its records are none.
    """
    make = registry.sources.load(name, where=name)
    wrong = functools.partial(plugin_calls.wrong, registry.sources, name, make)
    with plugin_calls.calling(registry.sources, name, make):
        length = len(source)
    if not isinstance(source.name, str):
        raise wrong(f"its name is {source.name!r}; give a text")
    first, faults = range(min(_FIRST, length)), []
    for index in first:
        try:
            with plugin_calls.calling(registry.sources, name, make, f"source[{index}] -> Record"):
                try:
                    record = source[index]
                except (BadExample, OSError):  # counted when it is its turn
                    continue
        except UserError as error:  # one alone is counted when it is its turn, too
            faults.append(UserError(f"{error}, in source[{index}]; raise BadExample(reason) for what cannot be used"))
            faults[-1].__cause__ = error
            continue
        if mistake := record_mistake(record):
            raise wrong(f"source[{index}] {mistake}")
    if faults and len(faults) == len(first):
        raise faults[0]


def _make(spec: str, options: SourceOptions, field: str) -> Any:
    where = f"{field}={spec!r}"
    if spec in ("", *(f"{name}:" for name in registry.sources if _is_from_files(name))):
        raise UserError(f"{where} names no data; {registry.sources.usage()}")
    name, colon, path = spec.partition(":")
    if colon and _is_from_files(name):
        if name not in _LOCAL:
            check_storage(path, where=where)
        try:
            make = registry.sources.load(name, where=where)
            with plugin_calls.calling(registry.sources, name, make, "Source(path, options=..., field=...)"):
                return make(path, options=options, field=field)
        except UserError as error:
            if hint := _weight_hint(path) or _source_hint(name, path, str(error)):
                raise UserError(f"{error}{hint}") from error
            raise
    name, slash, split = spec.partition("/")
    if name in registry.sources and not _is_from_files(name):
        make = registry.sources.load(name, where=where)
        splits = getattr(make, "splits", ())
        if not splits:
            with plugin_calls.calling(registry.sources, name, make, "Source(split, options=..., field=...)"):
                return make(split, options=options, field=field)
        split = validate_choice(f"{where}: split", split, splits) if slash else splits[0]
        with plugin_calls.calling(registry.sources, name, make, "Source(split)"):
            return make(split)
    name = re.split("[:/@]", spec)[0]
    if _is_from_files(name):
        raise UserError(f"{where} says no path; write {name}{registry.sources.form(name)}")
    if name in registry.sources:
        raise UserError(f"{where}: {spec[len(name) :]!r} cannot follow {name!r}; {registry.sources.usage()}")
    if fitting := fitting_source(spec):
        raise UserError(f"{where} names no source; write {fitting}")
    raise registry.sources.unknown(name, where=where)


def parse_mixture(
    text: str, options: SourceOptions = DEFAULT_OPTIONS, *, field: str = "data.train"
) -> list[tuple[Source, float]]:
    """Opens a mixture of sources, such as "shapes@0.5+digits@0.5".

    Args:
      text: the config's field.
      options: how to read them.
      field: config field to name in errors.

    Returns:
      Each source with its weight: positive, 1 where none is written, not normalised.

    Raises:
      UserError: as `open_source` does, and on a weight that is not a positive number or data for evaluation alone.
    """
    mixture = []
    parts = split_sources(text)
    for part, part_options in zip(parts, options_by_source(options, len(parts)), strict=True):
        spec, weight = _weighted(part, field)
        source = _open(spec, part_options, field)
        if isinstance(source, HasHardNegatives) and source.has_hard_negatives:
            raise UserError(f"{field}={spec!r} has wrong captions beside right ones; it is for data.eval alone")
        mixture.append((source, 1.0 if weight is None else weight))
    return mixture


def parse_eval(text: str, options: SourceOptions = DEFAULT_OPTIONS, *, field: str = "data.eval") -> list[Source]:
    """Opens the sources of "shapes/test+digits/test", each to be evaluated by itself.

    Sources that share a name are renamed to their spec, so that their results have different names.

    Raises:
      UserError: as `open_source` does, and on a weight or a source named twice.
    """
    parts = split_sources(text)
    sources = []
    for part, part_options in zip(parts, options_by_source(options, len(parts)), strict=True):
        if _weighted(part, field)[1] is not None:
            raise UserError(f"{field}={part!r} has a weight, but every source is evaluated by itself; remove it")
        if parts.count(part) > 1:
            raise UserError(f"{field}={text!r} names {part!r} twice; name it once")
        sources.append(_open(part, part_options, field))
    names = [source.name for source in sources]
    for part, source in zip(parts, sources, strict=True):
        if names.count(source.name) > 1:
            source.name = part
    return sources


def options_by_source(options: SourceOptions, count: int) -> list[SourceOptions]:
    """The options of `count` sources: keys with a part for each source are split at "|".

    Raises:
      UserError: there are as many parts as neither one nor the sources.
    """
    columns = {}
    for key in ("image_key", "caption_keys", "label_key"):
        text = getattr(options, key)
        parts = [part.strip() for part in text.split("|")]
        if len(parts) not in (1, count):
            raise UserError(
                f"{options.keys_field}.{key}={text!r} has {len(parts)} parts for {count} sources; write one for all, or"
                " one for each, separated by '|' (an empty one finds the field)"
            )
        columns[key] = parts * (count // len(parts))
    keys = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [dataclasses.replace(options, **of_source) for of_source in keys]


def _weight_hint(path: str) -> str:
    """What to add to an error where the end of a path may have been meant for a weight."""
    before, sign, after = path.rpartition("@")
    if not sign or "/" in after or "." in after or os.path.exists(path):
        return ""
    return f"; if {'@' + after!r} is meant for a weight, write a number, such as {before}@0.5"


def _source_hint(name: str, path: str, message: str) -> str:
    """What to add to an error where the path is one for another source."""
    fitting = fitting_source(path) if name in _CONFUSED else ""
    if not fitting or fitting.startswith(f"{name}:") or fitting in message:
        return ""
    return f" (did you mean {fitting}?)"


def split_sources(text: str) -> list[str]:
    """The sources of a text, which is split at each "+" that joins some."""
    parts = []
    for part in re.split(rf"\s*\+\s*(?={_path_source()}|{_embedded_source()}(?:\+|$))", text.strip()):
        # Only paths may contain a "+": elsewhere it joins, so that an error names the misspelt source alone.
        parts += [part] if re.match(_path_source(), part) else [piece.strip() for piece in part.split("+")]
    return parts


def _weighted(part: str, field: str) -> tuple[str, float | None]:
    """Splits "digits@0.5" into its source and weight."""
    match = _WEIGHT.fullmatch(part)
    if match:
        weight = float(match[2])
        if not (weight > 0 and math.isfinite(weight)):
            raise UserError(
                f"{field}={part!r}: weight {match[2]} must be positive; leave the source out to give it none"
            )
        return match[1], weight
    if "@" in part and not re.match(_path_source(), part):
        raise UserError(f"{field}={part!r}: weight {part.partition('@')[2]!r} is not a number; write NAME@0.5")
    return part, None


def _is_from_files(name: str) -> bool:
    return name in registry.sources and registry.sources.form(name).startswith(":")


def _path_source() -> str:
    """A regular expression of how a source of files begins."""
    return f"(?:{'|'.join(name for name in registry.sources if _is_from_files(name))}):"


def _embedded_source() -> str:
    """A regular expression of a source that is no path, with its weight."""
    return f"(?:{'|'.join(name for name in registry.sources if not _is_from_files(name))})(?:/[^/+@]*)?(?:@[^+]*)?"
