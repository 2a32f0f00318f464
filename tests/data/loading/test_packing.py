"""Captions packed into rows: the layout is first-fit decreasing, nothing overlaps, and few batches do not fit."""

import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse
from mmjax.data.loading import length_groups, packing
from tests.helpers import runs

EOS = 2


def captions(count, seed=0, mean=18.0, context=77):
    """Texts whose lengths are lognormal, and the lengths."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(mean) - 0.15, 0.55, count).astype(int), 2, context)
    text = rng.integers(3, 100, (count, context)).astype(np.int32)
    text[np.arange(count), lengths - 1] = EOS
    text[::3, -1] = EOS  # a second one, as CLIP's pad may be
    return text, lengths


def first_fit_of_one(lengths, rows, length):
    """The definition, one caption at a time."""
    used, row, column = [0] * rows, [0] * len(lengths), [0] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [k for k in range(rows) if used[k] + lengths[i] <= length]
        if not fitting:
            return None
        row[i], column[i] = fitting[0], used[fitting[0]]
        used[fitting[0]] += lengths[i]
    return row, column


@pytest.mark.parametrize("context, expected", [(16, 80), (77, 80), (80, 80), (81, 128), (128, 128), (129, 130)])
def test_row_lengths_are_even_and_hold_a_text(context, expected):
    assert packing.row_length(context) == expected


def test_lengths_end_at_the_first_end_of_text():
    text = np.array([[5, EOS, 7, EOS], [EOS, 1, 1, 1], [5, 6, 7, EOS], [5, 6, 7, 8]])
    assert packing.caption_lengths(text, EOS).tolist() == [2, 1, 4, 1]


@pytest.mark.parametrize("rows", [11, 20, 60])
def test_first_fit_decreasing(rows):
    _, lengths = captions(5 * 40)
    groups = lengths.reshape(5, 40)
    expected = [first_fit_of_one(group.tolist(), rows, 80) for group in groups]
    result = packing.first_fit(groups, rows, 80)
    if rows < max(packing.rows_needed(groups, 80)):
        assert result is None and None in expected
    else:
        assert [(row.tolist(), column.tolist()) for row, column in zip(*result, strict=True)] == expected


def test_rows_needed():
    assert packing.rows_needed(np.array([[80, 1, 1], [40, 40, 80], [2, 2, 2]]), 80).tolist() == [2, 2, 1]
    _, lengths = captions(6 * 64)
    groups = lengths.reshape(6, 64)
    needed = packing.rows_needed(groups, 80)
    assert packing.first_fit(groups, int(needed.max()), 80) is not None
    assert packing.first_fit(groups[needed == needed.max()], int(needed.max()) - 1, 80) is None


@pytest.mark.parametrize("devices, pieces", [(1, 1), (4, 1), (1, 4), (2, 3)])
def test_a_packer_lays_out_each_device_and_microbatch_alone(devices, pieces):
    text, lengths = captions(24)
    packer = packing.TextPacker(rows=12, length=80, captions=24 // devices // pieces, pieces=pieces, eos_id=EOS)
    batch = packer({"text": text})
    assert batch["text"] is text and batch["text_row"].dtype == batch["text_column"].dtype == np.int32
    numbers = np.arange(24)
    group = numbers // (24 // devices) * pieces + numbers % pieces
    for one in range(devices * pieces):
        filled = np.zeros((12, 80), int)
        for i in np.flatnonzero(group == one):
            filled[batch["text_row"][i], batch["text_column"][i] : batch["text_column"][i] + lengths[i]] += 1
        assert filled.max() == 1 and filled.sum() == lengths[group == one].sum()
        ends = filled.sum(axis=1)
        assert all(row[:end].all() for row, end in zip(filled, ends, strict=True))  # no gaps


def test_what_does_not_fit_is_laid_out_nowhere():
    text, _ = captions(24)
    batch = packing.TextPacker(rows=1, length=80, captions=12, pieces=2, eos_id=EOS)({"text": text})
    assert (batch["text_row"] == -1).all() and (batch["text_column"] == -1).all()


@pytest.mark.parametrize("group", [16, 256])
def test_few_groups_need_more_rows_than_a_sample_says(group):
    _, sample = captions(1024, seed=1)
    rows = packing.rows_for(sample, group, 80)
    _, others = captions(500 * group, seed=2)
    needed = packing.rows_needed(others.reshape(500, group), 80)
    assert needed.mean() < rows < 1.4 * needed.mean() + 3
    assert (needed > rows).mean() <= 0.002


def test_rows_expected_of_captions_from_the_web():
    """Measured on 200 batches of 256 captions of mean 18.7: 61 on average, 67 at most."""
    lengths = packing.expected_lengths(18.7, 77)
    assert 64 <= packing.rows_for(lengths, 256, 80) <= 72
    assert packing.rows_for(lengths, 1, 80) == 1


def test_a_sample_of_lengths_is_that_of_the_examples(tmp_path):
    pairs = runs.write_pairs(tmp_path, count=9)
    (tmp_path / "3.jpg").unlink()  # a caption whose image is not there is no caption of the training
    config = runs.config(data__train=f"pairs:{pairs}")
    spec, tokenizer = tasks.make_image_spec(parse(config)), tasks.make_tokenizer(parse(config))
    example_transform = tasks.Task(parse(config), spec, tokenizer).example_transform
    examples = tasks.make_train_examples(parse(config), tasks.open_mixture(parse(config)), example_transform)
    texts = [examples[position] for position in range(1024)]
    texts = [example for example in texts if not example["substitution_reason"]]
    packer = packing.TextPacker(0, 80, captions=4, pieces=1, eos_id=tokenizer.eos_id)
    result = packing.sample_lengths(examples, packer)
    assert len(result) < 1024
    assert result.tolist() == [packing.caption_lengths(example["text"], tokenizer.eos_id) for example in texts]
    grouper = length_groups.LengthGrouper((), 4, 1, tokenizer.context_length, extra=0, overhead=0, shares=1)
    assert packing.sample_lengths(examples, grouper).tolist() == [example["text_mask"].sum() for example in texts]
