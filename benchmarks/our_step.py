"""mmjax's train step as users run it, on synthetic data that is already on the devices; for `train_step.py`."""

import functools
import math
import time
import types
from collections.abc import Mapping
from typing import Any

import common
import jax
import kernel_times
import numpy as np

from mmjax import tasks
from mmjax.config import parse
from mmjax.data.image import frames
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.make_mesh import check_batch, make_mesh
from mmjax.plan import costs, hlo
from mmjax.training import build_step, packing

# Lengths of captions from the web in CLIP's tokens, the first and the last included; they are close to lognormal.
_MEAN, _DEVIATION = 18.0, 10.8
_CAPTIONS = 8192  # drawn, of which the trainer reads what it would read of a data set's
_TRIES = 100  # batches drawn until one fits into the rows or groups

_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_events: list[str] = []
jax.monitoring.register_event_listener(lambda event, **_: _events.append(event))


def caption_ids(text: Any, count: int, rng: np.random.Generator) -> np.ndarray:
    """Captions [count, context_length] of random words and real lengths: a first token, words, end of text, padding.

    Args:
      text: the text tower's settings.
      count: how many.
      rng: everything random is drawn from it.
    """
    context = text.context_length
    variance = math.log(1.0 + (_DEVIATION / _MEAN) ** 2)
    drawn = rng.lognormal(math.log(_MEAN) - variance / 2, math.sqrt(variance), count)
    last = np.clip(np.rint(drawn), 2, context).astype(int)[:, None] - 1
    position = np.arange(context)
    ids = rng.integers(1, text.vocab_size - 2, (count, context))
    ids[ids == text.eos_id] = 1
    ids[:, 0] = text.vocab_size - 2
    return np.where(position < last, ids, np.where(position == last, text.eos_id, 0)).astype(np.int32)


class _Captions:
    """Training examples as far as the trainer looks at them to choose how its texts are laid out."""

    seed = 0

    def __init__(self, text: Any, ids: np.ndarray):
        self.sources, self.transform, self._ids, self._mask = (self,), self, ids, _mask(text, ids)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"text": self._ids[index], "text_mask": self._mask[index]}

    def locate(self, position: int) -> tuple[int, int, int]:
        return 0, 0, position % len(self._ids)

    def text_arrays(self, record: dict[str, np.ndarray], rng: Any) -> dict[str, np.ndarray]:
        return record

    def describe(self) -> dict[str, Any]:
        return {"synthetic": len(self._ids)}


class Program:
    """A jitted step for `TextLayoutStep`, which keeps what it compiles of the two programs the one that is timed.

    Args:
      step: the jitted step.
      packed: whether the one for texts that are laid out, packed or grouped, is timed.
      options: the compiler's, beside those of XLA_FLAGS.

    Attributes:
      compiled: the program.
      compile_seconds: for tracing and compiling it; None where it came from the compilation cache.
    """

    def __init__(self, step: Any, packed: bool, options: Mapping[str, Any]):
        self._step, self._packed, self._options = step, packed, dict(options)
        self.compiled: Any = None
        self.compile_seconds: float | None = None

    def lower(self, state: Any, batch: Mapping[str, Any]) -> Any:
        if any(name in batch for name in tasks.LAYOUTS) != self._packed:
            return types.SimpleNamespace(compile=lambda: None)  # is never run here

        def compile():
            _events.clear()
            start = time.perf_counter()
            self.compiled = self._step.lower(state, batch).compile(self._options or None)
            if _CACHE_HIT not in _events:
                self.compile_seconds = time.perf_counter() - start
            return self.compiled

        return types.SimpleNamespace(compile=compile)


class Shared:
    """A train state that several programs go on with in turns, as each gives back what it was given."""

    def __init__(self):
        self._shapes, self.state = None, None

    def make(self, setup: build_step.Setup, seed: int, name: str) -> None:
        """Makes the state, or checks that there is one of this setup.

        Raises:
          UserError: another setting has made another one.
        """
        shapes = jax.tree.flatten(setup.state)
        # A step that failed has taken what it was given with it.
        lost = any(x.is_deleted() for x in jax.tree.leaves(self.state))
        if self._shapes is None or (lost and self._shapes == shapes):
            self._shapes, self.state = shapes, setup.make_state(seed)
        elif self._shapes != shapes:
            raise UserError(
                f"--beside={name}: it changes the train state; time it in a run of its own by --config.FIELD"
            )


class OurStep:
    """One setting of mmjax's step, ready to be run.

    Args:
      config: the run's config; XLA's flags and the compilation cache have been set.
      shared: where the train state is.
      name: of the setting.
      steps: of a call.
      options: the compiler's, beside those of XLA_FLAGS.
    """

    def __init__(self, config: Any, shared: Shared, name: str, steps: int, options: Mapping[str, Any]):
        self.config, self._shared, self._steps = config, shared, steps
        mesh = make_mesh(parse(config).mesh)
        check_batch("batch_size", config.batch_size, mesh, config.microbatch, loss=config.loss.impl)
        spec = tasks.make_image_spec(parse(config))
        shapes = tasks.batch_shapes(parse(config), mesh)
        side = shapes["image"].shape[1]
        self._task = tasks.Task(parse(config), spec, mesh=mesh)
        self._setup = build_step.make_setup(parse(config), self._task, mesh)
        rng = np.random.default_rng(0)
        captions = _Captions(config.model.text, caption_ids(config.model.text, _CAPTIONS, rng))
        self._packer = packing.choose_packer(parse(config), mesh, captions, {})
        batch = _with_texts(config, self._packer, rng)
        batch["image"] = rng.integers(0, 256, shapes["image"].shape, dtype=np.uint8)
        if "image_box" in shapes:
            box = np.array(
                [0, 0, *(frames.UNIT * side,) * 2, side, side, 0, 0], np.int32
            )  # the crop is the whole frame
            batch["image_box"] = np.tile(box, (config.batch_size, 1))
        self._frame = side if "image_box" in shapes else 0
        self._batch = mesh_lib.to_global(mesh, batch)
        self._program = Program(self._setup.step, self._packer is not None, options)
        self._shared.make(self._setup, config.seed, name)
        if self._packer is not None:
            self._step = packing.TextLayoutStep(self._program, self._packer)
        else:
            self._step = self._program.lower(self._setup.state, tasks.batch_shapes(parse(config), mesh)).compile()

    def run(self) -> None:
        """Some steps, until the device is done with them."""
        for _ in range(self._steps):
            self._shared.state, metrics = self._step(self._shared.state, self._batch)
        assert math.isfinite(float(metrics["loss"]))  # waits for the device

    def facts(self) -> dict[str, Any]:
        """What is told of it once it has been run: memory, compile time, executed share of the FLOPs, settings."""
        return self._facts

    @functools.cached_property
    def _facts(self) -> dict[str, Any]:
        m = common.memory(self._program.compiled)
        total = m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
        facts = {
            "memory_gb": total / 1e9,
            "compile_seconds": self._program.compile_seconds,
            "settings": self._settings(),
        }
        try:
            executed = costs.count(hlo.parse(self._program.compiled.as_text())).flops * jax.device_count()
            flops = tasks.model_flops(parse(self.config).model)
            share = executed / (3 * flops * self.config.batch_size) if flops else None
            return facts | {"executed_share": share}
        except (ValueError, KeyError, IndexError, TypeError) as error:  # a compiler that writes what nobody has read
            return facts | {"executed_share": None, "executed_share_error": repr(error)[:200]}

    def classes(self) -> dict[str, str]:
        """Classes of the program's kernels by name, see `kernel_times`; none where it cannot be read."""
        try:
            return kernel_times.program_classes(self._program.compiled.as_text())
        except (ValueError, KeyError, IndexError, TypeError):
            return {}  # `facts` tells why

    def _settings(self) -> str:
        config, image = self.config, self.config.model.image
        remat = ", ".join(
            f"{tower} {remat.policy}" + (f" but the last {remat.keep}" if remat.keep and remat.policy != "none" else "")
            for tower, remat in self._setup.remat.items()
        )
        texts = "padded"
        if self._packer is not None:
            share = self._packer.share(tasks.text_length(parse(config)))
            texts = f"{self._packer.participle} into {self._packer.describe()} ({share:.0%} of the padded tokens)"
        images = f"resized on the device from frames of {self._frame}" if self._frame else "resized beforehand"
        return (
            f"{config.precision}, attention by {self._task.describe_attention()}, loss {config.loss.impl},"
            f" microbatch {config.microbatch}, remat {remat or image.remat}, scan {image.scan}, texts {texts},"
            f" images {images}"
        )


def _mask(text: Any, ids: np.ndarray) -> np.ndarray:
    """Which ids are no padding."""
    return np.arange(ids.shape[1]) <= np.argmax(ids == text.eos_id, axis=1)[:, None]


def _with_texts(config: Any, packer: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Texts and ids of a batch that fits into the packer's layout, as the trainer's input gives them."""
    rows, text = config.batch_size, config.model.text

    def drawn():
        for _ in range(_TRIES):
            ids = caption_ids(text, rows, rng)
            number = np.stack([np.arange(rows), np.zeros(rows)], 1).astype(np.uint32)
            yield {"text": ids, "text_mask": _mask(text, ids), "id": number}

    if packer is None:
        return next(drawn())
    batches = packing.TextLayoutBatches(map(packer, drawn()), packer, None, _TRIES)
    laid_out = next((batch for batch in batches if any(name in batch for name in tasks.LAYOUTS)), None)
    if laid_out is None:
        raise UserError(
            f"{packer.describe()}: none of {_TRIES} batches of {rows} captions fits; more fit {packer.remedy}"
        )
    return laid_out
