"""Over an epoch each example of a set of tars comes once, in one sequence, however it is read."""

import collections
import functools

import numpy as np
import pytest

from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.batches import train_batches
from mmjax.data.loading.example_transforms import PairTransform
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.source_protocols import SourceOptions
from mmjax.data.sources.wds import WebDataset
from mmjax.data.text.make_tokenizer import make_tokenizer
from tests.helpers import campaign
from tests.helpers.tar_sets import write_set

LENGTHS = (5, 13, 9, 1, 20)  # 48 examples: an epoch is four steps of 12, or two of 24
ORDERS = ("global", "windowed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("tars"), LENGTHS)


@functools.cache
def make_examples(folder, order):
    source = WebDataset(str(folder), options=SourceOptions(order=order))
    tokenizer = make_tokenizer("bytes", 16)
    spec = ImageSpec(size=8, crop_scale=(0.3, 0.9))
    return TrainExamples([(source, 1)], seed=3, transform=PairTransform(spec, tokenizer), order=order, window=2)


def read(examples, steps, *, hosts=1, workers=0, batch=24):
    """(id, image) in the order of positions, as so many hosts with so many workers each read them."""
    rows = np.split(np.arange(batch), hosts)
    settings = dict(start_step=steps.start, stop_step=steps.stop, global_batch=batch, workers=workers, threads=1)
    parts = []
    for host_rows in rows:
        with train_batches(examples, rows=host_rows, **(settings | ({"threads": None} if workers else {}))) as batches:
            parts.append(list(batches))
    examples_read = []
    for step in range(len(steps)):
        for part in parts:
            pairs = zip(part[step]["id"].tolist(), part[step]["image"], strict=True)
            examples_read += [(tuple(words), image.tobytes()) for words, image in pairs]
    return examples_read


def ids(examples_read):
    return [identity for identity, _ in examples_read]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("hosts", [1, 2, 3, 8])
def test_each_once_an_epoch_in_one_sequence(folder, order, hosts):
    examples = make_examples(folder, order)
    first, second = read(examples, range(2), hosts=hosts), read(examples, range(2, 4), hosts=hosts)
    assert len(set(ids(first))) == 48 == len(first) and set(ids(second)) == set(ids(first))
    assert first + second == read(examples, range(4))
    # The next epoch has another order, and other crops of the same images.
    assert ids(first) != ids(second)
    images = [dict(first), dict(second)]
    assert sum(images[0][identity] != images[1][identity] for identity in images[0]) > 40


@pytest.mark.parametrize("order", ORDERS)
def test_stopped_anywhere_another_number_of_hosts_reads_on(folder, order):
    examples, batch = make_examples(folder, order), 12
    all_at_once = read(examples, range(8), batch=batch)
    for stop in range(9):
        before = read(examples, range(stop), hosts=3, batch=batch)
        after = read(examples, range(stop, 8), hosts=2, batch=batch)
        assert before + after == all_at_once
    assert set(collections.Counter(ids(all_at_once)).values()) == {2}


@pytest.mark.full
@pytest.mark.parametrize(
    ("hosts", "workers"),
    campaign.some([(hosts, workers) for hosts in (1, 2, 3, 8) for workers in (1, 2)], [(3, 2)]),
)
def test_hosts_with_workers_read_the_same(folder, hosts, workers):
    for order in ORDERS if hosts < 8 else ORDERS[:1]:
        examples = make_examples(folder, order)
        assert read(examples, range(2), hosts=hosts, workers=workers) == read(examples, range(2))


@pytest.mark.full
def test_hosts_and_workers_change_at_every_stop(folder):
    examples = make_examples(folder, "global")
    examples_read = []
    for step, (hosts, workers) in enumerate([(3, 2), (1, 0), (2, 1), (1, 2)]):
        examples_read += read(examples, range(step, step + 1), hosts=hosts, workers=workers)
    assert examples_read == read(examples, range(4))
    assert set(collections.Counter(ids(examples_read)).values()) == {2}
