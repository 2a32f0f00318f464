"""Agreement of the processes of a run at every step: on signals, on errors of their batches, on counts of examples."""

import collections
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax.data import bad_example
from mmjax.errors import GlobalUserError
from mmjax.parallel import log, process_agreement
from mmjax.parallel import mesh as mesh_lib
from mmjax.training.signals import SIGNALS, StopSignal

# Too few examples to say what share of a data set is bad.
_MIN_SEEN = 1000


class BadExamples:
    """Counts of bad examples by reason, and of texts that fill the context, the same in every process.

    Args:
      counts: those of the checkpoint that the run goes on from.
      batch_size: examples of a step.
      data: `data.train`, for messages.
      max_fraction: `data.max_bad_fraction`.
      history: steps whose counts are still asked for, as a line of metrics is written some steps late.

    Attributes:
      counts: by reason, of all steps that were added.
    """

    def __init__(self, counts: Mapping[str, int], batch_size: int, data: str, max_fraction: float, history: int):
        self.counts = collections.Counter(counts)
        self._batch_size, self._data, self._max_fraction = batch_size, data, max_fraction
        self._history = collections.deque(maxlen=history)  # (step, its metrics)
        self._full_texts_noted = False

    def add(self, step: int, full_texts: int, counts: Sequence[int]) -> None:
        """Adds the counts of a step.

        Args:
          step: its number.
          full_texts: texts with as many ids as there is room for.
          counts: bad examples, in the order of `bad_example.REASONS` without its first, "none".

        Raises:
          GlobalUserError: more examples than `data.max_bad_fraction` could not be read.
        """
        self.counts.update({reason: n for reason, n in zip(bad_example.REASONS[1:], counts, strict=True) if n})
        of_texts = {"full_texts": full_texts / self._batch_size} if full_texts else {}
        self._history.append((step, self._bad() | of_texts))
        if full_texts and not self._full_texts_noted:
            self._full_texts_noted = True
            log.info(
                f"note: {full_texts} of the {self._batch_size} texts of step {step} have as many ids as"
                " data.context_length leaves room for: those with more were cut; metrics count them as full_texts"
            )
        if any(counts):
            self._check_fraction(step)

    def _check_fraction(self, step: int) -> None:
        seen, bad = step * self._batch_size, self.counts.total()
        if (seen >= _MIN_SEEN or not self._max_fraction) and bad > self._max_fraction * seen:
            raise GlobalUserError(
                f"data.train={self._data!r}: {self.describe(step)}, more than"
                f" data.max_bad_fraction={self._max_fraction}; repair the data or allow more"
            )

    def metrics(self, step: int) -> dict[str, float]:
        """`bad_REASON`: the counts up to a step; `full_texts`: the fraction of its texts, where there are any."""
        return next((metrics for number, metrics in self._history if number == step), self._bad())

    def _bad(self) -> dict[str, float]:
        return {f"bad_{reason}": count for reason, count in sorted(self.counts.items())}

    def describe(self, step: int) -> str:
        """How many of the examples up to a step could not be read, and why."""
        reasons = ", ".join(f"{reason}: {count}" for reason, count in self.counts.most_common())
        return f"{self.counts.total()} of {step * self._batch_size} examples could not be read ({reasons})"


class StepAgreement:
    """Sums over all processes that are posted with each batch, and read some steps later.

    Reading is late so that no process waits for another one, and happens at the same point of the loop in all of them:
    so they stop after the same step, and raise the same errors.

    Args:
      mesh: the devices.
      batch_size: rows of a step over all processes.
      stop: what has been received by this process.
      batches: of this process; their `error`, where they have one, waits until all processes know of it.
      bad_examples: what the counts are added to.

    Attributes:
      signal: the number of the signal that any process received, as far as all of them know it.
    """

    def __init__(self, mesh: Mesh, batch_size: int, stop: StopSignal, batches: Any, bad_examples: BadExamples):
        self._stop, self._batches, self._bad_examples = stop, batches, bad_examples
        self._rows = mesh_lib.rows_counted_here(mesh, batch_size)
        self._all_reduce = AsyncAllReduce(mesh)
        self._pending = collections.deque()  # (step, sums) that have not been read
        self.signal: int | None = None

    def post(self, batch: dict[str, np.ndarray], step: int) -> None:
        """Posts this process's part of a step.

        Args:
          batch: its rows, as `train_batches` gives them; what only this reads is removed.
          step: its number.
        """
        reasons, is_full = batch.pop("substitution_reason")[self._rows], batch.pop("text_is_full")[self._rows]
        counts = [int(is_full.sum()), *np.bincount(reasons, minlength=len(bad_example.REASONS))[1:].tolist()]
        failed = getattr(self._batches, "error", None) is not None
        self._pending.append((step, self._all_reduce.sum([*self._received(), int(failed), *counts])))
        if jax.process_count() == 1:
            self.resolve(step)

    def resolve(self, step: int) -> None:
        """Reads the sums of the steps up to this one.

        Raises:
          GlobalUserError: too many examples could not be read.
          Exception: the batches of a process failed; the same error in all processes.
        """
        while self._pending and self._pending[0][0] <= step:
            number, sums = self._pending.popleft()
            sums = np.asarray(sums)
            self._read_signals(sums)
            failed, full_texts, *counts = sums[len(SIGNALS) :].tolist()
            if failed:
                process_agreement.raise_error_on_all(self._batches.error)
            self._bad_examples.add(number, full_texts, counts)

    def is_stopping(self) -> bool:
        """Whether to stop after this step, as far as all processes know."""
        if jax.process_count() == 1:
            self.signal = self._stop.received
        return self.signal is not None

    def ask_signal(self) -> int | None:
        """The signal that any process has received by now; all of them ask at the same point."""
        if jax.process_count() == 1:
            self.signal = self._stop.received
        elif self.signal is None:
            self._read_signals(np.asarray(self._all_reduce.sum(self._received())))
        return self.signal

    def log_signal(self, step: int) -> None:
        """Logs that the run stops because of another process; of its own signal the handler has written."""
        if self._stop.received is None:
            log.info(f"{signal.Signals(self.signal).name} in another process: saved step {step}, stopping")

    def _received(self) -> list[int]:
        return [int(self._stop.received == number) for number in SIGNALS]

    def _read_signals(self, sums: np.ndarray) -> None:
        received = [number for number, count in zip(SIGNALS, sums.tolist(), strict=False) if count]
        if received and self.signal is None:
            self.signal = received[0]


class AsyncAllReduce:
    """Sums a few small numbers over all processes, without waiting for the result.

    It is dispatched like a training step: whoever reads the sum of a step some steps later does not stop the device,
    and every process reads the same.

    Args:
      mesh: of all devices.
    """

    def __init__(self, mesh: Mesh):
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._devices = mesh.size
        self._sum = jax.jit(lambda x: x.sum(axis=0), out_shardings=NamedSharding(mesh, PartitionSpec()))

    def sum(self, values: Sequence[int]) -> Any:
        """Starts the sum of int32 `values` [K] over the processes; `numpy.asarray` of the result waits for it."""
        row = np.asarray(values, np.int32)
        if jax.process_count() == 1:
            return row
        shape = (self._devices, len(row))
        # One device holds the process's values, the others zeros.
        indices = self._sharding.addressable_devices_indices_map(shape).values()
        first = min(index[0].start or 0 for index in indices if index is not None)

        def rows(index):
            return row[None] if (index[0].start or 0) == first else np.zeros((1, len(row)), np.int32)

        return self._sum(jax.make_array_from_callback(shape, self._sharding, rows))
