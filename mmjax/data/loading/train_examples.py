"""Training examples by position: records of a mixture of sources, decoded, cropped and tokenised.

Everything random about a training example is a pure function of (seed, position), so neither hosts, workers, threads
nor a restart can change it.
"""

import functools
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from mmjax.data.bad_example import BadExample, common_fault, innermost_line, one_example, reason_code
from mmjax.data.loading.bad_example_log import BadExampleLog, write_traceback
from mmjax.data.loading.example_transforms import ExampleTransform, MixingTransform
from mmjax.data.loading.inputs import Arrays
from mmjax.data.loading.order import GlobalOrder, SourceOrder, example_rng, hash64, integer_weights, mixture_position
from mmjax.data.loading.windowed_order import WindowedOrder
from mmjax.data.source_protocols import Sharded, Source
from mmjax.errors import MachineError, UserError
from mmjax.io.retries import StorageAwayError
from mmjax.utils.random_streams import PositionStream
from mmjax.utils.terminal import printable

# Threads that cross into a window let its source prefetch once. One lock for all: it is held for a moment only, and
# examples are pickled, which an attribute that is a lock could not be.
_PREFETCH_LOCK = threading.Lock()


class TrainExamples:
    """Training examples by global position (step * global batch + row), for any number of epochs.

    A position belongs to one component of the mixture and is the k-th of that component; k // len(source) is its epoch
    and k % len(source) its position in the epoch's order. Each component thus gives each example once an epoch.

    An example that cannot be used is substituted by another one of its component, drawn from (seed, position, attempt).
    The positions after it stay what they are, and the reason is in `substitution_reason`. The first one of each reason
    is logged.

    A transform that mixes examples gets partners of the same component, drawn from (seed, position, attempt) alone:
    within the window where examples are in windows. One of the example's id, or of another partner's, is drawn again;
    so is one that cannot be used, which counts as the example's being substituted does.

    Attributes:
      traceback_folder: path or URL of where the traceback of a fault of code is written; "" for a temporary file.
    """

    traceback_folder = ""

    def __init__(
        self,
        mixture: Sequence[tuple[Source, int | float | Fraction]],
        *,
        seed: int,
        transform: ExampleTransform,
        shuffle: bool = True,
        order: str = "global",
        window: int = 8,
        max_tries: int = 32,
    ):
        """Makes the examples.

        Args:
          mixture: (source, weight) pairs; the weights are proportions and need not sum to 1.
          seed: the run's seed.
          transform: makes arrays of a record, see `mmjax.data.loading.example_transforms`.
          shuffle: permute every epoch; otherwise each source is read in its own order.
          order: `global` permutes all examples of a source; `windowed` permutes its shards and then the examples
            within `window` of them at a time. Sources without shards are permuted whole.
          window: shards.
          max_tries: examples tried for one position before giving up.

        Raises:
          UserError: no sources, an empty source, or a weight that is not positive.
        """
        self.sources = [source for source, _ in mixture]
        for source in self.sources:
            if len(source) == 0:
                raise UserError(f"data.train: {source.name!r} has no examples; check its path and format")
        try:
            self.weights = integer_weights([weight for _, weight in mixture])
        except ValueError as error:
            raise UserError(f"data.train: {error}") from error
        self.lengths = [len(source) for source in self.sources]
        self.orders: list[GlobalOrder | WindowedOrder] = []
        self._windowed: dict[int, tuple[Sharded, WindowedOrder]] = {}  # by component
        for component, source in enumerate(self.sources):
            if shuffle and order == "windowed" and isinstance(source, Sharded):
                windows = WindowedOrder(source.shard_lengths, window)
                self._windowed[component] = source, windows
                self.orders.append(windows)
            else:
                self.orders.append(GlobalOrder(len(source)) if shuffle else SourceOrder(len(source)))
        self._prefetched: dict[int, tuple[int, int]] = {}  # component: (epoch, window), the latest
        self.seed = seed
        self.transform = transform
        self.max_tries = max_tries
        self._log = BadExampleLog()

    def describe(self) -> list[dict[str, Any]]:
        """What the order of the examples follows from, by component, for JSON: two runs of equal ones see the same."""
        return [
            {
                "source": source.name,
                "weight": weight,
                "examples": length,
                "order": type(order).__name__,
                "shards": order.digest() if isinstance(order, WindowedOrder) else "",
            }
            for source, weight, length, order in zip(self.sources, self.weights, self.lengths, self.orders, strict=True)
        ]

    def locate(self, position: int) -> tuple[int, int, int]:
        """Returns (component, epoch, index into its source) of the example that belongs at `position`."""
        component, epoch, epoch_position, key = self._epoch_position(position)
        return component, epoch, self.orders[component].index(epoch_position, key)

    def _epoch_position(self, position: int) -> tuple[int, int, int, int]:
        """A position's component, epoch, position within the epoch, and the key of the epoch's order."""
        component, count = mixture_position(position, self.weights)
        epoch, epoch_position = divmod(count, self.lengths[component])
        return component, epoch, epoch_position, _epoch_key(self.seed, component, epoch)

    def __getitem__(self, position: int | np.integer) -> dict[str, np.ndarray]:
        """Returns the example at a global position.

        Returns:
          What `transform` makes of the record; `substitution_reason`, int8 []: 0, or the reason (an index into
          REASONS) why this stands in for another example; and `text_is_full`, bool []: whether its text has all the
          ids that there is room for, as one that was cut has.

        Raises:
          UserError: after `max_tries` bad examples, naming the source and the last error, or the fault of code that
            half of them or more came from.
          MachineError: the storage fails for `data.retry_seconds`.
        """
        position = int(position)
        component, epoch, epoch_position, key = self._epoch_position(position)
        source, order = self.sources[component], self.orders[component]
        if component in self._windowed:
            self._prefetch_window(component, epoch, epoch_position, key)
        index = order.index(epoch_position, key)
        errors: list[BadExample] = []
        for attempt in range(self.max_tries):
            rng = example_rng(self.seed, position, attempt)
            if attempt > 0:
                draw = rng.random()
                # A window without a good example is left, in the end.
                near = attempt <= self.max_tries // 2
                index = order.substitute(epoch_position, key, draw) if near else int(draw * len(source))
            try:
                with one_example():
                    record = source[index]
                    arrays = self.transform(record, rng)
                if isinstance(self.transform, MixingTransform):
                    partners = self._partners(self.transform, position, attempt, record["id"], errors)
                    with one_example():
                        arrays = self.transform.mix(arrays, partners)
                reason = reason_code(errors[0]) if errors else 0
                mask = arrays.get("text_mask")
                return {
                    **arrays,
                    "substitution_reason": np.array(reason, np.int8),
                    "text_is_full": np.array(mask is not None and mask[..., -1].any(), np.bool_),
                }
            except BadExample as error:
                errors.append(error)
                self._log.add(error, source.name, index)
                self._check_storage(error, source)
        raise self._unusable(errors, source, index) from errors[-1]

    def _partners(
        self, transform: MixingTransform, position: int, attempt: int, example_id: int, errors: list[BadExample]
    ) -> list[Arrays]:
        """What is taken of the partners of an example; `errors` gets those of records that cannot be used.

        Raises:
          UserError: `max_tries` were drawn in vain for one of them.
        """
        component, _, epoch_position, key = self._epoch_position(position)
        source, order = self.sources[component], self.orders[component]
        made, ids, index = [], {example_id}, 0
        for number in range(transform.partners):
            failed: list[BadExample] = []
            for retry in range(self.max_tries):
                rng = example_rng(self.seed, position, attempt, PositionStream.PARTNERS, number, retry)
                draw = rng.random()
                near = retry <= self.max_tries // 2
                index = order.substitute(epoch_position, key, draw) if near else int(draw * len(source))
                try:
                    with one_example():
                        record = source[index]
                        if record["id"] in ids:
                            continue
                        arrays = transform.partner(record, rng)
                except BadExample as error:
                    failed.append(error)
                    self._log.add(error, source.name, index)
                    self._check_storage(error, source)
                    continue
                made.append(arrays)
                ids.add(record["id"])
                break
            errors += failed
            if len(made) == number:
                if failed:
                    raise self._unusable(failed, source, index) from failed[-1]
                raise UserError(
                    f"data.train: {self.max_tries} examples of {source.name!r} were drawn to be mixed with another, and"
                    f" all had the id of one that was there already; give examples of {transform.partners + 1} ids or"
                    " more"
                )
        return made

    def _check_storage(self, error: BadExample, source: Source) -> None:
        if isinstance(error.__cause__, StorageAwayError):
            raise MachineError(
                f"data.train: the storage of {source.name!r} fails ({error.__cause__}); start again once it answers"
            ) from error.__cause__

    def _unusable(self, errors: list[BadExample], source: Source, index: int) -> UserError:
        """The error of a position that no example could be read for; the last one tried was `index`."""
        fault = common_fault(errors)
        tried = f"{len(errors)} examples of {source.name!r} in a row"
        if fault is None:
            return UserError(
                f"data.train: {tried} could not be used; the last one was number {index} ({errors[-1]}); check that the"
                " files are there and have what training needs"
            )
        file, line = innermost_line(fault)
        message = printable(" ".join(f"{type(fault).__name__}: {fault}".split()))
        return UserError(
            f"data.train: {file}, line {line}: {message}; {tried} ended so, which is a fault of code and not of data;"
            f" the traceback is in {write_traceback(fault, self.traceback_folder)}"
        )

    def _prefetch_window(self, component: int, epoch: int, epoch_position: int, key: int) -> None:
        """Lets the source prefetch the shards of this window and the next, once a window.

        Threads reach a window one before the other; those that are still in the window before it do nothing.
        """
        source, order = self._windowed[component]
        window = order.window(epoch_position, key)
        with _PREFETCH_LOCK:
            if (epoch, window) > self._prefetched.get(component, (-1, -1)):
                self._prefetched[component] = (epoch, window)
                source.prefetch_shards(order.shards(window, key) + order.shards(window + 1, key))


@functools.lru_cache(maxsize=1024)
def _epoch_key(seed: int, component: int, epoch: int) -> int:
    return hash64(seed, component, epoch)
