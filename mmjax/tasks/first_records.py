"""The first records of a source, which are looked at before anything is made."""

from collections.abc import Iterator

from mmjax.data.bad_example import BadExample, one_example
from mmjax.data.record import Record
from mmjax.data.source_protocols import Source

_FIRST = 3


def first_records(source: Source) -> Iterator[Record | None]:
    """The first records of a source; None for one that cannot be used, which is counted when it is its turn."""
    for index in range(min(_FIRST, len(source))):
        try:
            with one_example():
                record = source[index]
        except BadExample:
            record = None
        yield record
