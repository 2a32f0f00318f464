"""What every loaded model has, whatever it was trained for: config, preprocessing, tokenizer, batches."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mmjax import tasks
from mmjax.config.schema import RunConfig
from mmjax.data.image import transforms
from mmjax.data.text import tokenizer as tokenizer_lib
from mmjax.errors import UserError
from mmjax.inference.preprocess import Preprocess, Tokenize
from mmjax.parallel import mesh as mesh_lib
from mmjax.tasks import capabilities


class RestoredModel:
    """A task with parameters, run in batches that are filled up to a power of two, so that few shapes are compiled.

    Args:
      task: of the model.
      params: its parameters; over a mesh, batches are spread, and every process of it makes the same calls.
      make_tokenizer: makes the tokenizer when the first string comes; raises `UserError` where there is none.
      batch_size: rows at a time.
      source: where the parameters come from.

    Attributes:
      config: as of a run; `config.model` are the model's settings.
      image_spec: how images are prepared; None for a model that sees none.
      answers: those that it chooses among, where it was trained to.
      class_names: of a classifier, by number; numbers where its checkpoint has no names.
    """

    def __init__(
        self,
        task: tasks.Task,
        params: Any,
        make_tokenizer: Callable[[], tokenizer_lib.Tokenizer | None],
        *,
        batch_size: int = 64,
        source: str = "",
    ):
        self.config: RunConfig = task.config
        self.params, self.batch_size, self.source = params, batch_size, source
        self.image_spec: transforms.ImageSpec | None = task.image_spec
        self.mesh: Mesh | None = task.mesh
        self.answers: tuple[str, ...] = task.answers
        self.class_names: tuple[str, ...] = task.class_names
        self._make_tokenizer, self._tokenizer = make_tokenizer, None
        self._task = task

    def __repr__(self) -> str:
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params))
        fields = [
            f"{self.config.name!r}",
            f"kind={self.config.model.kind!r}",
            f"parameters={count:_}",
            f"precision={self.config.precision!r}",
            f"can={self.can}",
            f"source={self.source!r}",
        ]
        return f"mmjax.Model({', '.join(fields)})"

    @property
    def preprocess(self) -> Preprocess:
        """A callable from an image (a path, file's bytes, PIL image, uint8 array) to normalised float32 [S, S, 3].

        It can be pickled, so that a data loader's workers have it; `encode_image` takes its results in batches.
        """
        return Preprocess(self._images)

    @property
    def tokenize(self) -> Tokenize:
        """A callable from texts to ids int32 [B, L], which `encode_text` takes. It can be pickled."""
        return Tokenize(self._words)

    @functools.cached_property
    def can(self) -> tuple[str, ...]:
        """The methods that this model was trained for."""
        return capabilities.capabilities(self._task)

    def _check(self, method: str) -> None:
        if method not in self.can:
            capabilities.check(self._task, method, method)

    @property
    def logit_scale(self) -> float:
        """The scale of cosine similarities (not its logarithm).

        Raises:
          UserError: the model compares no embeddings.
        """
        if "logit_scale" not in self.params:
            raise UserError(f"logit_scale: {capabilities.describe_model(self.config)} compares no embeddings")
        return float(np.exp(np.asarray(self.params["logit_scale"], np.float32)))

    @property
    def logit_bias(self) -> float | None:
        """What is added to scaled similarities (SigLIP), or None."""
        return float(self.params["logit_bias"]) if "logit_bias" in self.params else None

    @property
    def tokenizer(self) -> tokenizer_lib.Tokenizer | None:
        """The model's tokenizer; None for a model without text.

        Raises:
          UserError: none is known.
        """
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
        return self._tokenizer

    @property
    def _images(self) -> transforms.ImageSpec:
        """How images are prepared.

        Raises:
          UserError: the model sees none.
        """
        if self.image_spec is None:
            raise UserError(f"{capabilities.describe_model(self.config)} sees no images")
        return self.image_spec

    @property
    def _words(self) -> tokenizer_lib.Tokenizer:
        """The tokenizer.

        Raises:
          UserError: none is known, or the model has no texts.
        """
        tokenizer = self.tokenizer
        if tokenizer is None:
            raise UserError(f"{capabilities.describe_model(self.config)} has no texts")
        return tokenizer

    def _run(self, function: Callable[..., Any], columns: tuple[np.ndarray, ...]) -> np.ndarray | None:
        """Runs batches of the next power of two of rows; the last row is repeated to fill one up. None of no rows.

        Over a mesh a batch also divides over its devices.
        """
        unit = 1 if self.mesh is None else mesh_lib.batch_devices(self.mesh)
        total, parts = len(columns[0]), []
        for start in range(0, total, self.batch_size):
            rows = [column[start : start + self.batch_size] for column in columns]
            count = len(rows[0])
            padded = -(-min(self.batch_size, _next_power_of_two(count)) // unit) * unit
            rows = [np.concatenate([x, np.repeat(x[-1:], padded - count, axis=0)]) for x in rows]
            if self.mesh is not None:
                local = mesh_lib.local_rows(self.mesh, padded)
                rows = mesh_lib.to_global(self.mesh, [x[local] for x in rows])
            parts.append(np.asarray(mesh_lib.to_host(function(self.params, *rows)))[:count])
        return np.concatenate(parts) if parts else None


def _next_power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
