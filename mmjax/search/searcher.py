"""The search for the images, videos or sounds nearest to a text or to another of them, exactly."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.input_files import inputs_of_file, record_fields, suffix_of
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.loading.inputs import InputSpecs
from mmjax.data.record import Record
from mmjax.errors import UserError
from mmjax.evaluation.embedding.batched_apply import BatchRunner
from mmjax.evaluation.views import view_specs
from mmjax.inference import eval_model
from mmjax.metrics import exact_dot
from mmjax.search import index as index_lib
from mmjax.search.gallery import KINDS, Gallery, Kind, Span
from mmjax.tasks import capabilities


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """What a query found.

    Attributes:
      entry: its name in the gallery.
      path: of its file, within the folder.
      span: the seconds of the file that count; None for all.
      score: its cosine similarity.
    """

    entry: str
    path: str
    span: Span | None
    score: float


@dataclasses.dataclass(frozen=True)
class Query:
    """A file to find others like it.

    Attributes:
      kind: its modality.
      path: of the file.
      content: of the file.
    """

    kind: Kind
    path: str
    content: bytes


class Searcher:
    """Embeds a gallery and queries with a model over its mesh.

    Args:
      model: see `eval_model.EvalModel`; its parameters are read here.
      kind: of what is searched.
      query_kinds: modalities of the files that are searched with.
      with_texts: whether there are texts to search with.

    Attributes:
      identity: of the model in an index: the digest of the parameters, and how the gallery is prepared.

    Raises:
      UserError: the model embeds no such modality, or no texts where there are some.
    """

    def __init__(
        self,
        model: eval_model.EvalModel,
        kind: Kind = KINDS["image"],
        query_kinds: Sequence[Kind] = (),
        *,
        with_texts: bool = True,
    ):
        task = model.task
        for needed in (kind, *query_kinds):
            capabilities.check(task, f"encode_{needed.modality}", f"search by {needed.unit}")
        if with_texts:
            capabilities.check(task, "encode_text", "search by texts")
        self.kind, self.tokenizer, self.task = kind, model.tokenizer, task
        self.runner = BatchRunner(model.mesh, model.config.eval.batch_size, loss=task.config.loss.impl)
        self._embed: dict[str, Any] = {}
        self.views = view_specs(task, model.config.eval)
        self.params = params = model.restore()
        self.specs = self.specs_of(kind)
        self.identity = {
            "name": f"{model.config.name}, {model.pretrained}",
            "params": eval_model.digest(params),
            "preprocessing": _describe(self.specs),
        }

    def specs_of(self, kind: Kind, *, in_views: bool = True) -> InputSpecs:
        """How a modality is prepared, and nothing else of an example; in the clips and crops of `eval`, or in one."""
        specs = self.views if in_views and self.views is not None else self.task.input_specs
        if kind.modality == "image":
            return InputSpecs(specs.image)
        return InputSpecs(None, tuple(spec for spec in specs.others if spec.name == kind.modality))

    def update(self, index: index_lib.Index, gallery: Gallery) -> tuple[int, int]:
        """Brings an index in step with the gallery; see `Index.update`."""
        embedder = _GalleryEmbedder(self, gallery)
        try:
            return index.update(gallery.entries, embedder)
        finally:
            embedder.close()

    def prepare(self, query: Query) -> np.ndarray:
        """What the model is given of a query.

        Raises:
          UserError: the file cannot be used.
        """
        fields = record_fields(inputs_of_file(query.content, suffix_of(query.path)))
        example = _Readable(_Record(Record(**fields, id=0)), self.specs_of(query.kind))[0]
        if isinstance(example, str):
            raise UserError(f"{query.kind.example}={query.path}: cannot be read as {query.kind.one} ({example})")
        return example

    def search(
        self,
        index: index_lib.Index,
        gallery: Gallery,
        texts: Sequence[str],
        queries: Sequence[tuple[Kind, np.ndarray]],
        *,
        top: int,
    ) -> list[list[SearchResult]]:
        """The nearest entries of the index for each text and then each query, as `prepare` gives it; best first.

        Similarities are exact (see `exact_dot`); among equal ones the first name comes first.

        Raises:
          UserError: nothing in the index can be read.
          BadExample: a text cannot be encoded.
        """
        if not texts and not queries:
            return []
        entries, embeddings = index.gallery()
        if not entries:
            unit = self.kind.unit
            raise UserError(
                f"{self.kind.flag}={gallery.name}: none of the {unit} can be read, so there is nothing to search in"
            )
        rows = [self.embed_texts(texts)] if texts else []
        for kind, batch in itertools.groupby(queries, key=lambda query: query[0]):
            rows.append(self.embed((array for _, array in batch), kind))
        positions, scores = exact_dot.top_matches(np.concatenate(rows), embeddings, top)
        return [
            [
                SearchResult(entries[i], *gallery.describe(entries[i]), float(score))
                for i, score in zip(row, values, strict=True)
            ]
            for row, values in zip(positions.tolist(), scores, strict=True)
        ]

    def embed(self, arrays: Iterable[np.ndarray], kind: Kind | None = None) -> np.ndarray:
        """Embeds a stream of prepared arrays of a kind, the gallery's by default; float32 [N, E], or [0, 0]."""
        arrays, name = iter(arrays), (kind or self.kind).modality
        first = next(arrays, None)
        if first is None:
            return np.empty((0, 0), np.float32)
        function = lambda params, x: self.task.embed_modality(params, name, x)
        compiled = self._embed.setdefault(name, self.runner.compile(function))
        return self.runner.run(compiled, self.params, ((array,) for array in itertools.chain([first], arrays)))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds texts; float32 [N, E].

        Raises:
          BadExample: the tokenizer cannot encode one.
        """
        if self.tokenizer is None:
            raise TypeError("a model that embeds texts has a tokenizer")
        ids, mask = self.tokenizer(list(texts))
        compiled = self._embed.setdefault("text", self.runner.compile(self.task.embed_text))
        return self.runner.run(compiled, self.params, zip(ids, mask, strict=True))


def _describe(specs: InputSpecs) -> Any:
    """How a modality is prepared, as JSON has it."""
    described = specs.image.of_evaluation() if specs.image is not None else dataclasses.asdict(specs.others[0])
    return json.loads(json.dumps(described, default=str))


class _GalleryEmbedder:
    """Embeds entries, see `index.Embed`; one progress bar, which appears at the first, counts all calls."""

    def __init__(self, searcher: Searcher, gallery: Gallery):
        self.searcher, self.gallery = searcher, gallery
        self.bar: tqdm | None = None

    def __call__(self, entries: Sequence[str]) -> tuple[np.ndarray, list[int], dict[int, str]]:
        readable: list[int] = []
        reasons: dict[int, str] = {}
        embeddings = self.searcher.embed(self._read(entries, readable, reasons))
        return embeddings, readable, reasons

    def _read(self, entries: Sequence[str], readable: list[int], reasons: dict[int, str]) -> Iterator[np.ndarray]:
        """Yields what can be read, adds its indices to `readable`, and why others cannot to `reasons`."""
        if self.bar is None:
            total, unit = len(self.gallery.entries), self.searcher.kind.unit.removesuffix("s")
            self.bar = tqdm(total=total, unit=unit, desc="embedding", smoothing=0.1, file=sys.stderr)
        examples = _Readable(_Entries(self.gallery, entries), self.searcher.specs)
        prepared: Iterator[Any] = examples.read(range(len(entries)))
        for i, example in enumerate(prepared):
            self.bar.update()
            if isinstance(example, str):
                reasons[i] = example
            else:
                readable.append(i)
                yield example

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class _Entries:
    """Entries of a gallery as a source."""

    class_names = None
    templates = None

    def __init__(self, gallery: Gallery, entries: Sequence[str]):
        self.name, self.gallery, self.entries = gallery.name, gallery, entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        return self.gallery.record(self.entries[index])


class _Record:
    """One record as a source."""

    name = ""
    class_names = None
    templates = None

    def __init__(self, record: Record):
        self.record = record

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Record:
        return self.record


class _Readable(EvalExamples):
    """What a model is given of examples; where one cannot be read it is replaced by the reason, a string."""

    def __getitem__(self, index: int) -> Any:
        try:
            example = self.read_example(index)
        except BadExample as error:
            return str(error.__cause__) if isinstance(error.__cause__, OSError) else str(error)
        return f"it has no {self.specs.names[0]}" if example.seen is None else example.seen
