import itertools

import numpy as np
import pytest

from mmjax.data.loading.modality_transform import ModalityTransform
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.mixture import open_source
from mmjax.data.source_protocols import Source
from mmjax.data.sources.sensors import CATEGORIES, NUMERIC, SHAPES, VOCABULARY, Sensors, best_accuracy
from mmjax.errors import UserError
from tests.helpers.evaluated_sources import array_specs

ARRAYS = ("image", "series", "table")
CHOICES = [c for count in (1, 2, 3) for c in itertools.combinations(ARRAYS, count)]


def features(records, name):
    """What can be read out of a modality, without anything learnt."""
    values = np.stack([record["modalities"][name] for record in records]).astype(np.float64)
    if name == "image":
        grey = values.mean(-1)
        return np.concatenate([grey.mean(1), grey.mean(2)], axis=1)
    if name == "series":
        first, second = values[..., 1] + 1j * values[..., 0], values[..., 3] + 1j * values[..., 2]
        frequency, phase = (first[:, 1:] * first[:, :-1].conj()).sum(1), (second * first.conj()).sum(1)
        return np.stack([np.angle(frequency), np.angle(phase)], axis=1)
    if name == "text":
        return (values[:, :, None] == np.arange(len(VOCABULARY))).any(axis=1).astype(np.float64)
    return values


@pytest.fixture(scope="module")
def samples():
    train, test = Sensors("train"), Sensors("test")
    return [train[i] for i in range(3000)], [test[i] for i in range(len(test))]


def test_is_a_source_of_pure_functions(samples):
    source = Sensors()
    assert isinstance(source, Source) and (len(source), len(Sensors("test"))) == (1_000_000, 2_000)
    for i in (7, 0, 2_999):
        record = source[i]
        assert {name: (a.shape, a.dtype) for name, a in record["modalities"].items()} == {
            name: (shape, np.float32) for name, shape in SHAPES.items()
        }
        same = samples[0][i]
        assert (record["label"], record["id"]) == (same["label"], same["id"])
        assert all(
            np.array_equal(record["modalities"][name], same["modalities"][name], equal_nan=True) for name in SHAPES
        )
    assert source[-1]["id"] == source[999_999]["id"] and len({r["id"] for part in samples for r in part}) == 5_000
    assert not np.array_equal(samples[0][0]["modalities"]["image"], samples[1][0]["modalities"]["image"])
    with pytest.raises(IndexError):
        source[1_000_000]


def test_the_first_examples_do_not_change(samples):
    # A change here changes every result on sensors: deliberately, and noted, or not at all.
    assert [record["label"] for record in samples[0][:12]] == LABELS
    np.testing.assert_allclose(samples[0][0]["modalities"]["table"], TABLE, atol=1e-5)


LABELS = [2, 7, 7, 1, 5, 5, 1, 1, 7, 3, 1, 5]
TABLE = [-1.668979, 0.107251, -1.038752, -1.477842, 0.0, 2.0]


def test_classes_are_balanced_and_categories_are_whole_numbers(samples):
    counts = np.bincount([record["label"] for record in samples[0]], minlength=8)
    assert len(counts) == 8 == len(Sensors().class_names) and abs(counts - 375).max() < 4 * 375**0.5
    table = np.stack([record["modalities"]["table"] for record in samples[0]])
    assert table.shape[1] == NUMERIC + len(CATEGORIES)
    for column, count in zip(table.T[NUMERIC:], CATEGORIES, strict=True):
        assert set(column.tolist()) == set(range(count))


def test_every_further_modality_tells_more(samples):
    """A linear classifier of a few features comes near the bound, and does not exceed it."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    train, test = samples
    labels = [[record["label"] for record in part] for part in samples]
    columns = {name: (features(train, name), features(test, name)) for name in SHAPES}
    accuracy = {}
    for names in [*CHOICES, ("text",), ("table", "text")]:
        x, held_out = (np.concatenate([columns[name][part] for name in names], axis=1) for part in (0, 1))
        solver = LinearDiscriminantAnalysis("lsqr", shrinkage=0.01 if "text" in names else None)
        accuracy[names] = solver.fit(x, labels[0]).score(held_out, labels[1])
        bound = best_accuracy(names)
        # Six words for what a text shows of a bit are not all of it.
        assert (
            bound - (0.05 if "text" in names else 0.03)
            < accuracy[names]
            < bound + 3 * (bound * (1 - bound) / len(test)) ** 0.5
        )
    single, pairs, all_three = ([accuracy[c] for c in CHOICES if len(c) == count] for count in (1, 2, 3))
    assert min(single) > 0.4 and max(single) < 0.5
    assert min(pairs) > 0.82 and max(pairs) < 0.93 and all_three[0] > 0.94


def test_a_text_is_a_sentence_of_the_vocabulary(samples):
    for record in samples[0][:50]:
        ids = record["modalities"]["text"]
        words = [VOCABULARY[int(number)] for number in ids[np.isfinite(ids)]]
        assert np.isfinite(ids[: len(words)]).all() and 9 <= len(words) <= 10
        assert words.count("the") == words.count("is") == 2 and {"valve", "pump"} < set(words)


def test_examples_have_all_modalities():
    source = open_source("sensors/test")
    prepare = ModalityTransform(array_specs({name: source.modality_shapes[name] for name in ARRAYS}))
    example = TrainExamples([(source, 1)], seed=0, transform=prepare)[0]
    assert example["present"].all() and prepare.names == ("image", "series", "table")
    assert example["series"].shape == (32, 4) and 0 <= example["label"] < 8
    assert source.name == "sensors" and open_source("sensors").name == "sensors/train"
    with pytest.raises(UserError, match="split='tset'.*did you mean 'test'"):
        open_source("sensors/tset")
