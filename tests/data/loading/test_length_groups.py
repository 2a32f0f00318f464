"""Groups of texts of like lengths: the least tokens that hold nearly every batch, and texts in their order."""

import itertools

import numpy as np
import pytest

from mmjax.data.loading import length_groups, packing
from mmjax.data.loading.length_groups import LengthGrouper, choose_groups


def fits(lengths, groups):
    """Which shares [..., rows] fit into groups: the definition, text by text."""
    room = np.concatenate([np.full(rows, tokens) for rows, tokens in groups])
    return (np.sort(lengths, axis=-1)[..., ::-1] <= room).all(axis=-1)


def cost(groups, extra):
    return sum(rows * (tokens + extra) for rows, tokens in groups)


@pytest.mark.parametrize("context, rows, shares", [(77, 32, 1), (77, 256, 8), (1024, 64, 16)])
def test_few_batches_do_not_fit(context, rows, shares):
    drawn = packing.expected_lengths(18.0, context)
    rng = np.random.default_rng(0)
    groups = choose_groups(drawn, rows, context, extra=-1, overhead=0, shares=shares)
    assert sum(count for count, _ in groups) == rows
    assert all((tokens - 1) % 8 == 0 or tokens == context for _, tokens in groups)
    variance = np.log(1 + (10.8 / 18) ** 2)
    others = rng.lognormal(np.log(18) - variance / 2, np.sqrt(variance), (500, shares, rows))
    others = np.clip(np.rint(others), 2, context).astype(int)
    assert (~fits(others, groups)).any(axis=1).mean() <= 0.02
    mean = np.mean(others) / context
    assert LengthGrouper(groups, rows, 1, context, -1, 0, shares).share(context) < 3 * mean


@pytest.mark.parametrize("extra, overhead", [(-1, 0), (0, 100), (33, 0)])
def test_no_other_groups_are_cheaper(extra, overhead):
    """All choices of at most four lengths, where a share is all there is and lengths are known exactly."""
    lengths, rows, context = np.repeat([3, 9, 17, 30, 44], [400, 300, 200, 80, 20]), 20, 48
    groups = choose_groups(lengths, rows, context, extra=extra, overhead=overhead, shares=1)
    tokens = [context, *(n for n in range(context - 1, 0, -1) if n > -extra and (n + extra) % 8 == 0)]
    longer = length_groups._rows_longer(lengths, np.array(tokens), rows, 0.001)
    needed = dict(zip(tokens, longer, strict=True))
    best = np.inf
    for count in range(1, 5):
        for chosen in itertools.combinations(tokens, count):
            if needed[chosen[0]]:
                continue
            ends = [*(needed[n] for n in chosen[1:]), rows]
            sizes = np.diff([0, *ends])
            best = min(best, cost(zip(sizes, chosen, strict=True), extra) + overhead * np.count_nonzero(sizes))
    assert cost(groups, extra) + overhead * len(groups) == best
    assert len(groups) == {0: 4, 100: 2}[overhead]


def test_equal_lengths_are_one_group():
    assert choose_groups(np.full(1000, 18), 32, 77, extra=0, overhead=0, shares=4) == ((32, 24),)
    assert choose_groups(np.full(1000, 77), 32, 77, extra=0, overhead=0, shares=4) == ((32, 77),)
    assert choose_groups(np.full(1, 18), 1, 77, extra=0, overhead=0, shares=1)[-1][0] == 1


def test_lengths_end_at_the_last_real_token():
    mask = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    assert length_groups.text_lengths(mask).tolist() == [2, 3, 1, 4]


@pytest.mark.parametrize("devices, pieces", [(1, 1), (2, 1), (2, 3)])
def test_texts_are_sorted_on_their_device_and_microbatch(devices, pieces):
    rng = np.random.default_rng(0)
    captions, context = 4, 20
    lengths = rng.integers(1, 13, devices * captions * pieces)
    batch = {"text_mask": np.arange(context) < lengths[:, None]}
    order = LengthGrouper(((1, 20), (3, 12)), captions, pieces, context, 0, 0, 1)(batch)["text_order"]
    assert order.dtype == np.int32
    for device, piece in itertools.product(range(devices), range(pieces)):
        rows = device * captions * pieces + np.arange(captions) * pieces + piece
        expected = sorted(range(captions), key=lambda i, rows=rows: -lengths[rows[i]])
        assert order[rows].tolist() == expected
    full = LengthGrouper(((1, 20), (3, int(min(lengths)) - 1 or 1)), captions, pieces, context, 0, 0, 1)
    lengths[: 2 * pieces : pieces] = 13
    assert (full({"text_mask": np.arange(context) < lengths[:, None]})["text_order"] == -1).all()
