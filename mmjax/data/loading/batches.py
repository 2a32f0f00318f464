"""Batches of training examples, decoded in the background by threads or worker processes (grain).

An element of the grain dataset is a chunk of rows, not one example: grain's cost per element is then shared by the
rows, and the rows of one batch are still spread over all threads and workers.
"""

import multiprocessing
import os
import re
import signal
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags

from mmjax import plugin_imports
from mmjax.errors import MachineError
from mmjax.utils import terminal

Batch = dict[str, np.ndarray]

_MAX_CHUNK = 32  # rows
_CHUNKS_AHEAD = 2  # per thread or worker, beyond the finished batches
_MIN_SHARED_BYTES = 1 << 16  # smaller arrays are cheaper to send through the queue than through shared memory


class WorkerKilled(MachineError):
    """A process that decodes was killed; what it would have given can still be made by another one."""


@runtime_checkable
class ExamplesByPosition(Protocol):
    """Examples to make batches of: `examples[position]` is a dict of arrays, the same in every process."""

    def __getitem__(self, position: int) -> dict[str, np.ndarray]: ...


class BatchIterator(Iterator[Batch]):
    """Iterator over batches that owns background threads and processes. `close()` ends them; so does `with`."""

    def __init__(self, dataset: grain.IterDataset | None):
        """Starts reading ahead at once; `None` is the empty sequence."""
        self._open = [] if dataset is None else [iter(dataset)]  # at most one
        # Also runs when the object is collected and when Python exits: an iterator that is not closed does not leak.
        self._close = weakref.finalize(self, _close_all, self._open)
        for iterator in self._open:
            if hasattr(iterator, "start_prefetch"):
                iterator.start_prefetch()

    def __next__(self) -> Batch:
        if not self._open:
            raise StopIteration
        try:
            return next(self._open[0])
        except RuntimeError as error:
            self.close()
            if killed := re.search(r"terminated unexpectedly with exit code -(\d+)", str(error)):
                raise WorkerKilled(
                    f"a process of data.workers was killed by {signal.Signals(int(killed[1])).name}, most likely as the"
                    " machine ran out of memory; lower data.workers or data.prefetch, or take more memory"
                ) from error
            raise
        except BaseException:  # the end, an error, an interrupt: in each case nobody will ask again
            self.close()
            raise

    def close(self) -> None:
        """Ends the background work, once the chunks being decoded are done. Harmless when repeated."""
        self._close()

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


def train_batches(
    examples: ExamplesByPosition,
    *,
    start_step: int,
    stop_step: int,
    global_batch: int,
    rows: Sequence[int] | np.ndarray,
    workers: int = 0,
    threads: int | None = None,
    prefetch: int = 2,
    finish: Callable[[Batch], Batch] | None = None,
) -> BatchIterator:
    """Batches of steps [start_step, stop_step), of this process's rows.

    Row r of step s is `examples[s * global_batch + r]`, whatever the number of processes, workers or threads.

    Args:
      examples: random access by global position; picklable when there are workers.
      start_step: first step, wherever a run resumes.
      stop_step: one past the last step.
      global_batch: rows of a step over all processes.
      rows: this process's rows within the global batch, in the order in which they are stacked.
      workers: processes that decode. With 0, threads of this process do; decoding and resizing release the GIL.
      threads: threads in each decoding process. By default one per available core (at most 16) without workers, and
        none with workers, where each worker is one stream of work. More help when data comes over a network.
      prefetch: finished batches kept ready. With 0, batches are stacked on demand.
      finish: applied to each batch once it is stacked, in this process.

    Returns:
      Iterator of dicts of arrays [len(rows), ...]. Close it when leaving early. Errors of the examples surface in
      `next`, after the batches before them.

    Raises:
      ValueError: rows outside the global batch, or negative counts.
    """
    rows = np.asarray(rows, dtype=np.int64)
    if rows.ndim != 1 or rows.size == 0 or rows.min() < 0 or rows.max() >= global_batch:
        raise ValueError(f"rows must be a non-empty list of numbers in [0, {global_batch}), got {rows}")
    if not 0 <= start_step <= stop_step or min(workers, prefetch, 0 if threads is None else threads) < 0:
        raise ValueError(
            "need 0 <= start_step <= stop_step and counts >= 0, got "
            f"{start_step=}, {stop_step=}, {workers=}, {threads=}, {prefetch=}"
        )
    if start_step == stop_step:
        return BatchIterator(None)
    if threads is None:
        threads = 0 if workers else min(16, available_cores())
    parallel = max(1, workers * max(1, threads)) if workers else max(1, threads)
    chunk_size = min(_MAX_CHUNK, -(-len(rows) // parallel))
    chunks_per_batch = -(-len(rows) // chunk_size)

    chunks = _Chunks(examples, rows, chunk_size, chunks_per_batch, global_batch, start_step, stop_step)
    dataset = grain.MapDataset.source(chunks).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads * _CHUNKS_AHEAD)
    )
    if workers:
        dataset = grain.experimental.WithOptionsIterDataset(
            dataset, grain.experimental.DatasetOptions(min_shm_size=_MIN_SHARED_BYTES)
        )
        # mp_prefetch reads absl flags, which raises in a program that has parsed none (a notebook, a test).
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=min(workers, len(chunks)), per_worker_buffer_size=max(1, threads) * _CHUNKS_AHEAD
            )
        )
    dataset = dataset.batch(chunks_per_batch, batch_fn=_concatenate)
    if finish is not None:
        dataset = dataset.map(finish)
    if prefetch:
        dataset = grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=prefetch)
    return BatchIterator(dataset)


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Chunks:
    """Random access to chunks of rows: chunk i holds some rows of step start + i // chunks_per_batch, stacked."""

    def __init__(self, examples, rows, chunk_size, chunks_per_batch, global_batch, start_step, stop_step):
        self.examples = examples
        self.rows = rows
        self.chunk_size = chunk_size
        self.chunks_per_batch = chunks_per_batch
        self.global_batch = global_batch
        self.start_step = start_step
        self.length = (stop_step - start_step) * chunks_per_batch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Batch:
        step, chunk = divmod(int(index), self.chunks_per_batch)
        first = (self.start_step + step) * self.global_batch
        rows = self.rows[chunk * self.chunk_size : (chunk + 1) * self.chunk_size]
        loaded = [self.examples[first + row] for row in rows.tolist()]
        return {key: np.stack([example[key] for example in loaded]) for key in loaded[0]}

    def __reduce__(self):
        # What is first is unpickled first: examples may hold what needs plugins to be unpickled.
        return _arrive, (_Plugins(plugin_imports.modules()), self.__dict__)

    def __repr__(self) -> str:  # grain puts it in its log lines
        return f"Chunks({len(self)} of {self.chunk_size} rows)"


def _arrive(plugins: "_Plugins", state: dict) -> _Chunks:
    """Chunks as they were pickled; a worker process is set up for them."""
    chunks = _Chunks.__new__(_Chunks)
    chunks.__dict__.update(state)
    parent = multiprocessing.parent_process()
    if parent is not None:
        terminal.format_log()
        # Ctrl-C goes to all processes of a terminal: what follows from it is the main one's to decide.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A main process that was killed ends no workers.
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()
    return chunks


class _Plugins:
    """Plugins that are imported where this is unpickled."""

    def __init__(self, modules: tuple[str, ...]):
        self.modules = modules
        plugin_imports.import_plugins(modules, "data.workers: plugins")

    def __reduce__(self):
        return _Plugins, (self.modules,)


def _exit_after(process) -> None:
    process.join()
    os._exit(1)


def _close_all(iterators: list) -> None:
    while iterators:
        iterators.pop().close()


def _concatenate(chunks: Sequence[Batch]) -> Batch:
    # Chunks from workers live in shared memory that is freed with them; concatenating copies into ordinary arrays.
    return {key: np.concatenate([np.asarray(chunk[key]) for chunk in chunks]) for key in chunks[0]}
