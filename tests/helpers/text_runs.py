"""Runs on captions of mixed lengths: what tests of packed and of grouped texts have in common."""

import numpy as np

from mmjax import tasks
from mmjax.config import parse
from tests.helpers import runs


def write_captions(folder):
    """Pictures, and captions most of which are short and some long, so that batches differ; returns the table."""
    table = runs.write_pairs(folder, count=9)
    rng = np.random.default_rng(0)
    lengths = np.where(rng.random(600) < 0.15, rng.integers(50, 58, 600), rng.integers(3, 17, 600))
    lines = [f"{i % 9}.jpg\t{'abcdefg '[i % 7] * length}" for i, length in enumerate(lengths)]
    table.write_text("filepath\ttitle\n" + "\n".join(lines) + "\n")
    return table


def texts(config):
    """`text` and `text_mask` of all batches of a run, one after the other."""
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), tasks.make_tokenizer(parse(config)))
    examples = tasks.make_train_examples(parse(config), tasks.open_mixture(parse(config)), task.example_transform)
    drawn = [examples[position] for position in range(config.steps * config.batch_size)]
    return {name: np.stack([example[name] for example in drawn]) for name in ("text", "text_mask")}


def losses(workdir):
    return np.array([line["loss"] for line in runs.lines(workdir, "train")])


def assert_same_training(one, other, steps):
    """The losses of two runs: alike to 1e-5 for ten steps, then to 1e-3."""
    one, other = losses(one), losses(other)
    assert len(one) == len(other) == steps
    np.testing.assert_allclose(one[:10], other[:10], rtol=1e-5)
    np.testing.assert_allclose(one, other, rtol=1e-3)
