import itertools

import jax
import numpy as np

from mmjax.objectives.text_ids import text_ids


def words(texts):
    return [tuple(row) for row in np.asarray(jax.jit(text_ids)(np.array(texts, np.int32)))]


def test_equal_texts_alone_have_equal_ids():
    rng = np.random.default_rng(0)
    texts = np.unique(rng.integers(0, 49_408, (20_000, 6)), axis=0)
    few = np.array(list(itertools.product(range(5), repeat=6)))  # texts that differ little, and in order
    unique = np.unique(np.concatenate([texts, few]), axis=0)
    ids = words(unique)
    assert len(set(ids)) == len(unique)
    for word in (0, 1):  # each is as good as chance: about n^2 / 2^33 pairs are equal
        assert len(unique) - len({row[word] for row in ids}) < 5
    again = words(np.concatenate([unique[::-1][:1000], unique[:1000]]))
    assert again == ids[::-1][:1000] + ids[:1000]


def test_they_are_what_they_were():
    """A held-out loss is compared over the versions of a run's code."""
    assert words([[0, 0, 0], [1, 2, 3], [49406, 320, 49407]]) == [
        (726748333, 2865837661),
        (3942773914, 1119058751),
        (1800226749, 2649237637),
    ]
