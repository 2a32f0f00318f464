import collections
import math
import random
from fractions import Fraction

import numpy as np
import pytest

from mmjax.data.loading.order import example_rng, hash64, integer_weights, mixture_position, permute
from mmjax.data.loading.windowed_order import WindowedOrder


@pytest.mark.parametrize("n", [*range(1, 66), 100, 127, 128, 129, 1000, 4099])
def test_permute_is_a_bijection(n):
    for key in (0, 1, -5, 2**64 - 1):
        assert sorted(permute(i, n, key) for i in range(n)) == list(range(n))


def test_permute_stays_in_range_when_n_is_huge():
    n = 2**62
    images = {permute(i, n, 7) for i in [*range(500), n - 1, n // 2]}
    assert len(images) == 502 and all(0 <= i < n for i in images)
    assert np.mean([i / n for i in images]) == pytest.approx(0.5, abs=0.05)


def test_permute_reaches_every_order_of_a_small_set_about_equally_often():
    counts = collections.Counter(tuple(permute(i, 4, hash64(key)) for i in range(4)) for key in range(4800))
    assert len(counts) == math.factorial(4)
    assert min(counts.values()) > 130 and max(counts.values()) < 280  # 200 expected, sd 14


def test_permute_leaves_no_order_behind():
    n = 5000
    image = np.array([permute(i, n, 3) for i in range(n)])
    assert abs(np.corrcoef(np.arange(n), image)[0, 1]) < 0.06
    assert np.abs(np.diff(image)).mean() == pytest.approx(n / 3, rel=0.05)
    assert (image == np.arange(n)).sum() < 10
    other = np.array([permute(i, n, 4) for i in range(n)])
    assert (image == other).sum() < 10


@pytest.mark.parametrize(("index", "n"), [(-1, 5), (5, 5), (0, 0), (0, 2**62 + 1)])
def test_permute_refuses_what_it_cannot_permute(index, n):
    with pytest.raises(ValueError, match="index"):
        permute(index, n, 0)


LENGTHS = np.array([7, 0, 3, 11, 1, 20, 5, 0, 9])


@pytest.mark.parametrize("window", [1, 2, 3, 4, 9, 100])
def test_windowed_order_gives_each_example_once_and_reads_few_shards_at_a_time(window):
    order = WindowedOrder(LENGTHS, window)
    shard_of = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    epochs = []
    for key in range(20):
        indices = [order.index(epoch_position, key) for epoch_position in range(LENGTHS.sum())]
        assert sorted(indices) == list(range(LENGTHS.sum()))
        windows = [order.window(epoch_position, key) for epoch_position in range(LENGTHS.sum())]
        assert windows == sorted(windows)
        seen = []
        for number in range(-(-len(LENGTHS) // window)):
            shards = order.shards(number, key)
            seen += shards
            read = {int(shard_of[i]) for i, w in zip(indices, windows, strict=True) if w == number}
            assert read == {shard for shard in shards if LENGTHS[shard]}
        assert sorted(seen) == list(range(len(LENGTHS))) and order.shards(number + 1, key) == []
        epochs.append(tuple(indices))
    assert len(set(epochs)) == 20


def test_windowed_order_mixes_the_examples_of_a_window():
    order = WindowedOrder(np.full(6, 1000), 3)
    for epoch_position in (0, 3000):
        indices = np.array([order.index(epoch_position + i, 5) for i in range(3000)])
        shards = [order.shards(epoch_position // 3000, 5).index(i // 1000) for i in indices]
        assert abs(np.corrcoef(np.arange(3000), shards)[0, 1]) < 0.08
        assert abs(np.corrcoef(np.arange(3000), indices % 1000)[0, 1]) < 0.08


def test_windowed_order_permutes_the_shards_evenly():
    order = WindowedOrder(np.ones(4, int), 1)
    counts = collections.Counter(
        tuple(order.index(epoch_position, hash64(key)) for epoch_position in range(4)) for key in range(4800)
    )
    assert len(counts) == math.factorial(4)
    assert min(counts.values()) > 130 and max(counts.values()) < 280  # 200 expected, sd 14


def test_a_stand_in_comes_from_the_same_window():
    order = WindowedOrder(LENGTHS, 2)
    for epoch_position in range(LENGTHS.sum()):
        window = order.window(epoch_position, 3)
        members = {order.index(p, 3) for p in range(LENGTHS.sum()) if order.window(p, 3) == window}
        assert {order.substitute(epoch_position, 3, draw) for draw in np.linspace(0, 0.999, 60)} <= members


def test_windowed_order_of_200_000_shards_is_found_at_once():
    order = WindowedOrder(np.full(200_000, 10_000), 8)
    indices = {order.index(10_000 * 99_999 + i, 1) for i in range(100)}
    assert len(indices) == 100 and len({order.shards(k, 1)[0] for k in range(50)}) == 50


def random_weights(rng):
    return [rng.choice([1, 2, 7, 0.1, 0.25, 0.9, 1 / 3, Fraction(5, 7), 1000]) for _ in range(rng.randint(1, 9))]


@pytest.mark.parametrize("case", range(12))
def test_every_prefix_of_a_mixture_holds_each_component_within_two_of_its_share(case):
    weights = random_weights(random.Random(case)) if case else [1] * 25
    integers = integer_weights(weights)
    counts = [0] * len(weights)
    for position in range(2000):
        component, index = mixture_position(position, weights)
        assert index == counts[component]  # consecutive, without gaps
        counts[component] += 1
        for count, weight in zip(counts, integers, strict=True):
            assert abs(count - Fraction((position + 1) * weight, sum(integers))) < 2


def test_a_mixture_is_exact_far_from_zero():
    weights, period = [0.3, 0.1, 0.6], 10
    for position in range(50):
        component, index = mixture_position(position, weights)
        far = mixture_position(position + period * 10**15, weights)
        assert far == (component, index + (3, 1, 6)[component] * 10**15)


def test_weights_count_as_the_decimals_they_print_as():
    assert integer_weights([0.1, 0.2, 0.7]) == (1, 2, 7)
    assert integer_weights([0.5, 0.5]) == integer_weights([3, 3]) == (1, 1)
    assert integer_weights([1e-3, Fraction(1, 2)]) == (1, 500)


@pytest.mark.parametrize("weights", [[], [1, 0], [-1.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_that_are_no_proportions_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        integer_weights(weights)


def test_example_rng_depends_on_each_argument_and_on_nothing_else():
    arguments = [(0, 0), (1, 0), (0, 1), (0, 0, 0), (0, 0, 1), (0, 0, 0, 0), (2**63, 5), (-1, 5), (0, 2**64 - 1)]
    draws = [tuple(example_rng(*a).integers(2**63, size=4)) for a in arguments]
    assert len(set(draws)) == len(arguments)
    assert draws == [tuple(example_rng(*a).integers(2**63, size=4)) for a in arguments]


def test_neighbouring_positions_draw_independent_uniforms():
    draws = np.array([example_rng(0, position).random(3) for position in range(3000)])
    assert draws.mean(0) == pytest.approx([0.5] * 3, abs=0.03)
    assert np.abs(np.corrcoef(np.c_[draws[:-1], draws[1:]].T) - np.eye(6)).max() < 0.08


def test_the_sequence_is_the_one_that_earlier_checkpoints_continue():
    """Pinned: a change here makes a resumed run see other data than the run it continues."""
    assert hash64(1, 2, 3) == 15020427595393229491
    assert [permute(i, 10, 42) for i in range(10)] == [6, 0, 8, 4, 1, 7, 2, 3, 9, 5]
    assert [mixture_position(i, (1, 2, 4))[0] for i in range(14)] == [2, 1, 2, 0, 2, 1, 2, 2, 1, 2, 0, 2, 1, 2]
    assert example_rng(1, 2, 3).random() == 0.2805961099019729
