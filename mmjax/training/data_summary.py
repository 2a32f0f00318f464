"""What a run is trained on, in lines: its sources, their examples, how often they are seen, how large a batch is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.utils.terminal import size


def describe_data(components: Sequence[Mapping[str, Any]], steps: int, batch_size: int) -> Iterator[str]:
    """Lines on a run's examples: how many it sees, and then of each source.

    Args:
      components: as `TrainExamples.describe` gives them.
      steps: of the whole run.
      batch_size: examples of a step.
    """
    total = steps * batch_size
    yield f"training: {steps:,} steps of {batch_size:,} examples: {total:,} examples"
    weight = sum(component["weight"] for component in components)
    for component in components:
        share = component["weight"] / weight
        epochs = total * share / component["examples"]
        of_all = f", {share:.0%} of the examples" if len(components) > 1 else ""
        yield f"  {component['source']}: {component['examples']:,} examples{of_all}; {epochs:.3g} epochs"


def note_large_batch(components: Sequence[Mapping[str, Any]], batch_size: int) -> Iterator[str]:
    """A line for each source of which a batch has more examples than there are."""
    weight = sum(component["weight"] for component in components)
    for component in components:
        rows, examples = batch_size * component["weight"] / weight, component["examples"]
        if rows > examples:
            yield (
                f"note: a batch of {batch_size:,} has {rows:,.0f} examples of {component['source']}, which has"
                f" {examples:,}: each is in it more than once; give more data or a smaller batch_size"
            )


def host_bytes(batch: Mapping[str, Any], processes: int) -> dict[str, int]:
    """Bytes of the arrays of a batch in the memory of each process's host, by name, the largest first.

    Args:
      batch: a global batch's shapes and types, as the pipeline makes it.
      processes: that share it.
    """
    sizes = {name: math.prod(x.shape) * np.dtype(x.dtype).itemsize // processes for name, x in batch.items()}
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))


def describe_host_memory(sizes: Mapping[str, int], prefetch: int) -> str:
    """A line on the memory of batches on the host of each process.

    Args:
      sizes: as `host_bytes` gives them.
      prefetch: batches that are made ahead.
    """
    total = sum(sizes.values())
    largest = ", ".join(f"{name} {size(count)}" for name, count in list(sizes.items())[:2])
    ahead = f"; data.prefetch={prefetch} keeps {size(prefetch * total)} ready" if prefetch else ""
    return f"a batch on the host of each process: {size(total)} ({largest}){ahead}"
