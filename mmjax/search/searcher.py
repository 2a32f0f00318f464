"""The search of a folder for the images nearest to a text or an image, exactly."""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from mmjax.data.bad_example import BadExample
from mmjax.data.image.image_file import read_image
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.record import Record
from mmjax.errors import UserError
from mmjax.evaluation.embedding import embedder, features
from mmjax.inference import eval_model
from mmjax.io.reader import Reader
from mmjax.metrics import exact_dot
from mmjax.search import index as index_lib


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """An image that a query found: its path within the folder and its cosine similarity."""

    path: str
    score: float


class Searcher:
    """Embeds a folder's images and queries with a model over its mesh.

    Args:
      model: see `eval_model.EvalModel`; its parameters are read here.

    Attributes:
      identity: of the model in an index: the digest of the parameters, and how images are preprocessed.

    Raises:
      UserError: the model embeds no images.
    """

    def __init__(self, model: eval_model.EvalModel):
        self.image_spec, tokenizer = model.embedding_inputs("search, which embeds images and texts,")
        params = model.restore()
        self.embedder = embedder.MeshEmbedder(model.task, model.mesh, tokenizer, model.config.eval.batch_size)
        self.embedder.bind(params)
        self.identity = {
            "name": f"{model.config.name}, {model.pretrained}",
            "params": eval_model.digest(params),
            "preprocessing": json.loads(json.dumps(self.image_spec.of_evaluation())),
        }

    def update(self, index: index_lib.Index, folder: str, images: Mapping[str, str]) -> tuple[int, int]:
        """Brings an index in step with the folder; see `Index.update`."""
        embedder = _FolderEmbedder(self, folder, len(images))
        try:
            return index.update(images, embedder)
        finally:
            embedder.close()

    def search(
        self, index: index_lib.Index, texts: Sequence[str], pictures: Sequence[bytes], *, top: int
    ) -> list[list[SearchResult]]:
        """The nearest images of the index for each text and then each picture, best first.

        Similarities are exact (see `exact_dot`); among equal ones the first path comes first.

        Raises:
          UserError: the index has no image.
        """
        if not texts and not pictures:
            return []
        paths, gallery = index.gallery()
        if not paths:
            raise UserError("--images: none of the images can be read, so there is nothing to search in")
        rows = [self.embedder.texts(list(texts))] if texts else []
        if pictures:
            spec = self.image_spec
            prepared = EvalExamples(_Queries(pictures), spec).read(range(len(pictures)))
            rows.append(self.embed_images(features.decoded_input(example, "--image") for example in prepared))
        positions, scores = exact_dot.top_matches(np.concatenate(rows), gallery, top)
        return [
            [SearchResult(paths[i], float(score)) for i, score in zip(row, values, strict=True)]
            for row, values in zip(positions.tolist(), scores, strict=True)
        ]

    def embed_images(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Embeds a stream of prepared images, which may be empty; float32 [N, E]."""
        images = iter(images)
        first = next(images, None)
        if first is None:
            return np.empty((0, self.embedder.texts([""]).shape[1]), np.float32)
        return self.embedder.images(itertools.chain([first], images))


class _FolderEmbedder:
    """Embeds files of a folder, see `index.Embed`; one progress bar, which appears at the first file, counts all calls.

    Args:
      searcher: embeds.
      folder: of the files.
      total: images in the folder.
    """

    def __init__(self, searcher: Searcher, folder: str, total: int):
        self.searcher, self.folder, self.total = searcher, folder, total
        self.bar: tqdm | None = None

    def __call__(self, paths: Sequence[str]) -> tuple[np.ndarray, list[int], dict[int, str]]:
        readable: list[int] = []
        reasons: dict[int, str] = {}
        embeddings = self.searcher.embed_images(self._read(paths, readable, reasons))
        return embeddings, readable, reasons

    def _read(self, paths: Sequence[str], readable: list[int], reasons: dict[int, str]) -> Iterator[np.ndarray]:
        """Yields the images that can be read, adds their indices to `readable`, and why others cannot to `reasons`."""
        if self.bar is None:
            self.bar = tqdm(total=self.total, unit="image", desc="embedding", smoothing=0.1, file=sys.stderr)
        examples = _Readable(_Files(self.folder, paths), self.searcher.image_spec)
        for i, example in enumerate(examples.read(range(len(paths)))):
            self.bar.update()
            if isinstance(example, str):
                reasons[i] = example
            else:
                readable.append(i)
                yield features.decoded_input(example, self.folder)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class _Files:
    """Image files as a source."""

    class_names = None
    templates = None

    def __init__(self, folder: str, paths: Sequence[str]):
        self.name, self.folder, self.paths = folder, folder.rstrip("/"), paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Record:
        return Record(image=read_image(Reader(), f"{self.folder}/{self.paths[index]}"), captions=[], id=index)


class _Queries(_Files):
    """Image files that were read before, as a source."""

    def __init__(self, pictures: Sequence[bytes]):
        super().__init__("--image", [""] * len(pictures))
        self.pictures = pictures

    def __getitem__(self, index: int) -> Record:
        return Record(image=self.pictures[index], captions=[], id=index)


class _Readable(EvalExamples):
    """Examples, where one that cannot be read is replaced by the reason, a string."""

    def __getitem__(self, index: int) -> Any:
        try:
            return self.read_example(index)
        except BadExample as error:
            return str(error.__cause__) if isinstance(error.__cause__, OSError) else str(error)
