"""The embedder of images and texts over a whole mesh, in batches of one shape."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from mmjax.data.source_protocols import Source
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError
from mmjax.evaluation.embedding import batched_apply, features
from mmjax.models.fusion.config import FusedConfig
from mmjax.parallel import mesh as mesh_lib


class MeshEmbedder:
    """An `Embedder` (see `features`) of a model on a mesh; every process gets all embeddings.

    Args:
      task: gives `embed_images`, `embed_text` and `contrastive_loss`; of a classifier `embed_example`.
      mesh: the device mesh.
      tokenizer: for the texts; None for a model without.
      batch_size: rows at a time over all devices.

    Attributes:
      specs: how examples are prepared; views in evaluation by several clips and crops.

    Raises:
      UserError: the batch does not divide over the mesh.
    """

    def __init__(self, task: Any, mesh: Mesh, tokenizer: tokenizer_lib.Tokenizer | None, batch_size: int):
        self.runner = batched_apply.BatchRunner(mesh, batch_size, loss=task.config.loss.impl)
        self.mesh, self.tokenizer, self.batch_size = mesh, tokenizer, batch_size
        self._names: tuple[str, ...] = ()  # a classifier's modalities
        if isinstance(task.config.model, FusedConfig):
            self._names = task.example_transform.names
        self._task, self.specs = task, task.input_specs
        self._embed_images = self.runner.compile(self._embed_example if self._names else task.embed_images)
        self._embed_text = self.runner.compile(task.embed_text)
        self._loss = jax.jit(lambda *args: task.contrastive_loss(*args)[0], out_shardings=mesh_lib.replicated(mesh))
        # Where other objectives are added in training, this is a part of what is called loss there.
        self.loss_name = "loss" if task.is_only_contrastive else "contrastive_loss"
        self.positives = task.config.data.positives
        self.params = None

    def bind(self, params: Any) -> "MeshEmbedder":
        """Sets the parameters to embed with."""
        self.params = params
        return self

    def images(self, images: Iterable[np.ndarray], /) -> np.ndarray:
        """Embeds a stream of uint8 [H, W, 3] images; [N, E] float32 with unit rows."""
        return self.runner.run(self._embed_images, self.params, ((image,) for image in images))

    def examples(self, examples: Iterable[Any], source: Source, /) -> np.ndarray:
        """Embeds examples by what the model reads of them beside text; [N, E] float32 with unit rows.

        Raises:
          UserError: one has nothing of it.
        """
        if not self._names:
            return self.images(features.decoded_input(example, source.name) for example in examples)
        rows = (self._row(example, source) for example in examples)
        return self.runner.run(self._embed_images, self.params, rows)

    def _row(self, example: Any, source: Source) -> batched_apply.Row:
        """The arrays of a classifier's modalities, and which of them are present."""
        names = self._names
        if not example.inputs:
            raise UserError(
                f"data.eval: the example of id {example.id} of {source.name!r} has none of {', '.join(names)}; leave it"
                " out"
            )
        arrays = self.specs.blank() | dict(example.inputs)
        return *(arrays[name] for name in names), np.array([name in example.inputs for name in names], bool)

    def _embed_example(self, params: Any, *columns: Array) -> Array:
        *values, present = columns
        return self._task.embed_example(params, dict(zip(self._names, values, strict=True)), present)

    def texts(self, texts: list[str], /) -> np.ndarray:
        """Embeds texts; [N, E] float32 with unit rows.

        Raises:
          BadExample: the tokenizer cannot encode one.
        """
        ids, mask = self._tokenize(texts)
        return self.runner.run(self._embed_text, self.params, zip(ids, mask, strict=True))

    def _tokenize(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if self.tokenizer is None:
            raise TypeError("a model without texts embeds none")
        return self.tokenizer(texts)

    def pair_ids(self, ids: np.ndarray, texts: list[str], /) -> np.ndarray:
        """What positives share, for `loss`: the pairs' ids uint64 [N], or with their texts' [N, 2]."""
        if self.positives != "text":
            return ids
        tokens, _ = self._tokenize(texts)
        numbers = np.unique(tokens, axis=0, return_inverse=True)[1].reshape(len(ids))
        return np.stack([ids, numbers.astype(np.uint64)], axis=1)

    def loss(self, image_embeddings: np.ndarray, text_embeddings: np.ndarray, ids: np.ndarray, /) -> float | None:
        """The contrastive part of the training loss, averaged over full batches of a fixed shuffle; None without one.

        Shuffled, because a folder of classes comes in their order, and a batch of one class has no negatives.
        """
        ids = ids.reshape(len(ids), -1)  # of several ids of a pair, any may be equal to another pair's
        words = np.stack([ids & 0xFFFFFFFF, ids >> np.uint64(32)], axis=2).astype(np.uint32).reshape(len(ids), -1)
        order = np.random.default_rng(0).permutation(len(ids))
        losses = []
        for start in range(0, len(ids) - self.batch_size + 1, self.batch_size):
            rows = order[start + self.runner.rows]
            image, text, pair_ids = mesh_lib.to_global(
                self.mesh, (image_embeddings[rows], text_embeddings[rows], words[rows])
            )
            losses.append(self._loss(self.params, image, text, None if self.positives == "diagonal" else pair_ids))
            if len(losses) > 1:
                losses[-2].block_until_ready()  # a CPU has no threads for the collectives of many steps at a time
        return float(np.mean([float(x) for x in losses])) if losses else None
