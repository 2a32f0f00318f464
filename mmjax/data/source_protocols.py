"""The protocols of sources, which say what a source has besides its records, and how one is read."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mmjax.data.record import Record


@runtime_checkable
class Source(Protocol):
    """Random access to examples: `source[i]` is the same record every time, in every process.

    Attributes:
      name: what results are filed under.
      class_names: names of the labels, or None where examples have no label.
      templates: prompt templates for zero-shot evaluation with a "{c}" for the class name, or the prompts of each class
        by its name; or None.

    What only some sources have is in the protocols below.
    """

    name: str

    @property
    def class_names(self) -> Sequence[str] | None: ...

    @property
    def templates(self) -> Sequence[str] | Mapping[str, Sequence[str]] | None: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class Sharded(Source, Protocol):
    """A source whose consecutive examples lie together in shards that are best read one after the other.

    Attributes:
      shard_lengths: int64 [S], examples of each shard in the order of the source's indices; their sum is its length.
    """

    shard_lengths: np.ndarray

    def prefetch_shards(self, shards: Sequence[int], /) -> None:
        """Begins to fetch shards that will be read soon, in the background; returns at once."""
        ...


@runtime_checkable
class HasAnswers(Source, Protocol):
    """A source of questions that knows the answers to choose among.

    Attributes:
      answer_names: the answers, sorted.
    """

    @property
    def answer_names(self) -> list[str]: ...


@runtime_checkable
class HasNormalizedAnswers(Source, Protocol):
    """A source of questions that says how its answers are to be scored.

    Attributes:
      answers_normalized: whether the answers come as VQA v2's own, ten a question and mostly normalised already.
    """

    answers_normalized: bool


@runtime_checkable
class HasModalities(Source, Protocol):
    """A source of several modalities.

    Attributes:
      modality_shapes: of the arrays in its records' `modalities`, by name.
    """

    @property
    def modality_shapes(self) -> Mapping[str, tuple[int, ...]]: ...


@runtime_checkable
class HasClassCodes(Source, Protocol):
    """A source whose classes may be named by codes in its files, for which `class_names` has words.

    Attributes:
      class_codes: the names in the files, by label: WordNet ids; None where `class_names` are those.
    """

    @property
    def class_codes(self) -> Sequence[str] | None: ...


@runtime_checkable
class MayBeMultilabel(Source, Protocol):
    """A source that says whether its records have `labels` or `label`.

    Attributes:
      is_multilabel: whether an image may show several classes.
    """

    is_multilabel: bool


@runtime_checkable
class HasImageGroups(Source, Protocol):
    """A source whose consecutive records make one example of several images.

    Attributes:
      images_per_example: how many.
    """

    images_per_example: int


@runtime_checkable
class HasHardNegatives(Source, Protocol):
    """A source with wrong captions beside the right ones: to choose among in evaluation, never to train on.

    Attributes:
      has_hard_negatives: whether it is one.
    """

    has_hard_negatives: bool


@runtime_checkable
class HasRows(Source, Protocol):
    """A source that gives rows of the named columns without the files beside them.

    A source that reads `SourceOptions.columns` puts a row of them, a mapping by name, into its records as their
    `table`; this one spares the pass over the data that statistics are from the rest of the records.
    """

    def row(self, index: int, /) -> Mapping[str, Any]:
        """The row of an example."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """The fields of a config on how a source is read.

    Attributes:
      image_key: field that holds the image: a column, or the endings of a tar's members ("jpg;png"); "" finds it.
      caption_keys: fields that hold captions, as `CaptionKeys` reads them; "" finds them.
      label_key: field that holds the class: a column, or an ending of a tar's members or a field of its JSON
        ("json:label"); "" finds it.
      classes: of the model, where it learns labels and not captions: a source then gives labels where it has some, and
        numbers below it need no names; 0 elsewhere.
      encoding: of texts that come as bytes, and of tables.
      table_paths: images that a table may name: in its "folder", on its "storage", or "any".
      separator: of the cells of tables; "" finds it.
      order: `global` or `windowed`, see `mmjax.data.loading.order`; the latter needs only the shards' lengths.
      cache: folder for indexes and shards; "" is the user's cache folder.
      cache_gb: shards of remote tars kept in it.
      retry_seconds: how long reads of a failing storage are repeated.
      image_size: side of the images that `synthetic` makes.
      max_bad_fraction: share of the shards that may be missing or damaged, see `mmjax.data.webdataset.validate`, and of
        a table's rows that may have another number of cells than the header.
      columns: named columns that are read as the `table` of a record.
      text_columns: those of them whose texts are the captions.
      keys_field: part of the config that holds the keys, to name in errors: `data` or `eval`.
    """

    image_key: str = ""
    caption_keys: str = ""
    label_key: str = ""
    classes: int = 0
    encoding: str = "utf-8"
    table_paths: str = "storage"
    separator: str = ""
    order: str = "global"
    cache: str = ""
    cache_gb: float = 100.0
    retry_seconds: float = 120.0
    image_size: int = 256
    max_bad_fraction: float = 0.01
    columns: tuple[str, ...] = ()
    text_columns: tuple[str, ...] = ()
    keys_field: str = "data"


DEFAULT_OPTIONS = SourceOptions()


def evenly_spaced(length: int, count: int) -> list[int]:
    """At most `count` numbers of range(length), ascending from 0 and evenly spread, to look at a part of a source."""
    return list(range(0, length, max(1, -(-length // count))))
