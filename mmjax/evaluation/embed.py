"""Embeds images and texts over the whole mesh, in batches of one shape."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax.data import examples, images, specs, tokenizers
from mmjax.evaluation import prompts, suite
from mmjax.parallel import arrays, distributed
from mmjax.parallel import mesh as mesh_lib


class MeshEmbedder:
    """A model on a mesh as `suite.evaluate` wants it; every process gets all embeddings.

    The last batch is padded to the shape of the others, so nothing is compiled twice and no row depends on the count.

    Args:
      task: gives `embed_images`, `embed_text` and `pair_loss`.
      mesh: the device mesh.
      tokenizer: for the texts.
      batch_size: rows at a time over all devices.

    Raises:
      UserError: the batch does not divide over the mesh.
    """

    def __init__(self, task: Any, mesh: Mesh, tokenizer: tokenizers.Tokenizer, batch_size: int):
        mesh_lib.check_batch("eval.batch_size", batch_size, mesh, loss=task.config.loss.impl)
        self.mesh, self.tokenizer, self.batch_size = mesh, tokenizer, batch_size
        self.rows = mesh_lib.local_rows(mesh, batch_size)
        rows, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
        self._embed_images = jax.jit(task.embed_images, out_shardings=rows)
        self._embed_text = jax.jit(task.embed_text, out_shardings=rows)
        self._loss = jax.jit(lambda *args: task.pair_loss(*args)[0], out_shardings=whole)
        self.positives = task.config.data.positives
        self.params = None

    def bind(self, params: Any) -> "MeshEmbedder":
        """Sets the parameters to embed with."""
        self.params = params
        return self

    def images(self, images: Iterable[np.ndarray], /) -> np.ndarray:
        """Embeds a stream of uint8 [H, W, 3] images; [N, E] float32 with unit rows."""
        return self._run(self._embed_images, ((image,) for image in images))

    def texts(self, texts: list[str], /) -> np.ndarray:
        """Embeds texts; [N, E] float32 with unit rows."""
        ids, mask = self.tokenizer(texts)
        return self._run(self._embed_text, zip(ids, mask, strict=True))

    def loss(self, image_embeddings: np.ndarray, text_embeddings: np.ndarray, ids: np.ndarray, /) -> float | None:
        """The training loss averaged over full batches of a fixed shuffle; None when there is not one.

        Shuffled, because a folder of classes comes in their order, and a batch of one class has no negatives.
        """
        words = np.stack([ids & 0xFFFFFFFF, ids >> np.uint64(32)], axis=1).astype(np.uint32)
        order = np.random.default_rng(0).permutation(len(ids))
        losses = []
        for start in range(0, len(ids) - self.batch_size + 1, self.batch_size):
            rows = order[start + self.rows]
            image, text, pair_ids = arrays.to_global(
                self.mesh, (image_embeddings[rows], text_embeddings[rows], words[rows])
            )
            losses.append(self._loss(self.params, image, text, pair_ids if self.positives == "id" else None))
            if len(losses) > 1:
                losses[-2].block_until_ready()  # a CPU has no threads for the collectives of many steps at a time
        return float(np.mean([float(x) for x in losses])) if losses else None

    def _run(self, function: Any, rows: Iterator[tuple[np.ndarray, ...]]) -> np.ndarray:
        """Feeds rows in padded batches; one batch is dispatched before the last one's result is fetched."""
        results, waiting = [], None
        for batch, count in _batches(rows, self.batch_size):
            local = tuple(column[self.rows] for column in batch)
            out = function(self.params, *arrays.to_global(self.mesh, local))
            if waiting is not None:
                results.append(arrays.to_host(waiting[0])[: waiting[1]])
            waiting = (out, count)
        if waiting is not None:
            results.append(arrays.to_host(waiting[0])[: waiting[1]])
        if not results:
            raise ValueError("nothing to embed")
        return np.concatenate(results)


def _batches(rows: Iterator[tuple[np.ndarray, ...]], size: int) -> Iterator[tuple[tuple[np.ndarray, ...], int]]:
    """Stacks rows into batches of `size`; the last one repeats its last row. Yields (columns, real rows)."""
    held: list[tuple[np.ndarray, ...]] = []
    for row in rows:
        held.append(row)
        if len(held) == size:
            yield _stack(held), size
            held = []
    if held:
        yield _stack(held + [held[-1]] * (size - len(held))), len(held)


def _stack(rows: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


class _SharedExamples(examples.EvalExamples):
    """A source's examples where several processes evaluate: each reads and decodes the rows that its devices embed.

    All else (captions, labels, ids) is exchanged batch by batch; the images of others are blank.

    Args:
      source, image_spec: see `EvalExamples`.
      batch_size: examples embedded at a time over all processes.
      rows: those of a batch that this process embeds, ascending.
    """

    def __init__(self, source: Any, image_spec: images.ImageSpec, batch_size: int, rows: np.ndarray):
        super().__init__(source, image_spec)
        self.batch_size, self.rows = batch_size, rows.tolist()

    def __iter__(self) -> Iterator[examples.EvalExample]:
        blank = np.zeros((self.image_spec.size, self.image_spec.size, 3), np.uint8)
        starts = range(0, len(self), self.batch_size)
        mine = [start + row for start in starts for row in self.rows if start + row < len(self)]
        ahead = self.read(mine)  # by threads, over the ends of batches
        for start in range(0, len(self), self.batch_size):
            stop = min(start + self.batch_size, len(self))
            own, told, error = {}, [], None
            try:
                for index in (start + row for row in self.rows if start + row < stop):
                    example = next(ahead)
                    own[index] = example.image
                    label = None if example.label is None else int(example.label)
                    told.append([index, example.captions, label, int(example.id), example.labels])
            except Exception as caught:
                error = caught
            distributed.raise_together(error)
            everyone = {index: rest for part in distributed.exchange(told) for index, *rest in part}
            for index in range(start, stop):
                yield examples.EvalExample(own.get(index, blank), *everyone[index])


class Evaluator:
    """The evaluation of a config: its sources opened once, its functions compiled once.

    Args:
      config: `data.eval` and `eval` are read.
      task: see `MeshEmbedder`.
      mesh: the device mesh.
      tokenizer, image_spec: preprocessing, as in training.

    Raises:
      UserError: an evaluation source cannot be opened.
    """

    def __init__(
        self, config: Any, task: Any, mesh: Mesh, tokenizer: tokenizers.Tokenizer, image_spec: images.ImageSpec
    ):
        options = specs.make_options(config, evaluation=True)
        opened = specs.parse_eval(config.data.eval, options) if config.data.eval else []
        self.sources = [prompts.apply(source) for source in opened]
        self.embedder = MeshEmbedder(task, mesh, tokenizer, config.eval.batch_size)
        self.image_spec = image_spec

    def run(self, params: Any, *, keep_artifacts: bool = False) -> list[suite.Evaluation]:
        """Evaluates parameters on every source; artifacts are what the report shows, for the first process alone."""
        return suite.evaluate(
            self.sources,
            self.embedder.bind(params),
            examples=make_examples(self.sources, self.image_spec, self.embedder),
            keep_artifacts=keep_artifacts and jax.process_index() == 0,
        )


def make_examples(
    sources: Sequence[Any], image_spec: images.ImageSpec, embedder: MeshEmbedder
) -> Callable[[Any], examples.EvalExamples]:
    """How sources are decoded: `sources` by all processes together, and a view of one by whichever process asks."""

    def decoded(source: Any) -> examples.EvalExamples:
        if jax.process_count() == 1 or not any(source is each for each in sources):
            return examples.EvalExamples(source, image_spec)
        return _SharedExamples(source, image_spec, embedder.batch_size, embedder.rows)

    return decoded


def flat_metrics(evaluations: list[suite.Evaluation]) -> dict[str, float]:
    """All metrics as `DATASET/METRIC`."""
    return {f"{e.dataset}/{name}": value for e in evaluations for name, value in e.metrics.items()}
