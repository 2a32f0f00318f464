"""Training on tars: what is bad in them is counted in metrics.jsonl, and what changes under a run is told."""

import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse
from mmjax.data.loading import example_transforms
from mmjax.errors import GlobalUserError
from mmjax.parallel import log, process_agreement
from mmjax.training import validate_run
from tests.helpers import runs
from tests.helpers.tar_sets import jpeg, write_set

STEPS, BATCH = 4, 16
LENGTHS = (20, 24, 20)  # an epoch is the whole run


def plant(number, members):
    """Faults in known places."""
    image, metadata, text = members
    return {
        3: [(image[0], b""), metadata, text],
        11: [(image[0], b"<html>not found</html>"), metadata, text],
        17: [(image[0], jpeg(17)[:200]), metadata, text],
        26: [(image[0], jpeg(26)[:300]), metadata, text],
        33: [metadata, text],
        40: [image],
        51: [image, (text[0], b"  \n")],
    }.get(number, members)


PLANTED = {"bad_empty": 1, "bad_not_image": 1, "bad_corrupt": 2, "bad_no_image": 1, "bad_no_caption": 2}


def config(folder, **changes):
    settings = dict(steps=STEPS, batch_size=BATCH, data__train=f"wds:{folder}", data__max_bad_fraction=0.5)
    return runs.config(**(settings | {"eval__every": 0, "data__eval": ""} | changes))


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_the_counts_are_what_was_planted(tmp_path, order):
    folder = write_set(tmp_path / "tars", LENGTHS, change=plant)
    runs.train(config(folder, data__order=order, data__window=2), tmp_path / "run")
    last = runs.lines(tmp_path / "run", "train")[-1]
    assert last["step"] == STEPS and np.isfinite(last["loss"])
    assert {name: count for name, count in last.items() if name.startswith("bad_")} == PLANTED


def test_a_set_that_has_changed_is_told_when_a_run_goes_on(tmp_path, monkeypatch):
    folder = write_set(tmp_path / "tars", LENGTHS)
    logged = []
    monkeypatch.setattr(log, "info", logged.append)
    runs.train(config(folder, steps=3), tmp_path / "run")
    runs.train(config(folder, steps=4), tmp_path / "run")
    assert not [line for line in logged if line.startswith("warning")]
    write_set(folder, (*LENGTHS, 5))
    for index in folder.glob("*.index"):
        index.unlink()
    runs.train(config(folder, steps=5), tmp_path / "run")
    (warning,) = [line for line in logged if line.startswith("warning: the examples of data.train=")]
    assert "(69 of 'tars' now, 64 of 'tars' at the time" in warning


def test_hosts_that_see_other_data_stop_together(monkeypatch):
    one = [{"source": "tars", "weight": 1, "examples": 64, "order": "WindowedOrder", "shards": "a"}]
    other = [one[0] | {"examples": 60, "shards": "b"}]
    monkeypatch.setattr(process_agreement, "all_gather_objects", lambda value: [one, value, one])
    validate_run.check_same_data(one, "wds:x")
    with pytest.raises(
        GlobalUserError, match=r"process 0 sees 64 examples of 'tars' and process 1 60, or in other shards"
    ):
        validate_run.check_same_data(other, "wds:x")


def test_what_the_order_follows_from_is_described(tmp_path):
    folder = write_set(tmp_path / "tars", LENGTHS)

    def described(**changes):
        made = parse(config(folder, **changes))
        example_transform = example_transforms.PairTransform(tasks.make_image_spec(made), tasks.make_tokenizer(made))
        return tasks.make_train_examples(made, tasks.open_mixture(made), example_transform).describe()

    assert described() == described(seed=9, batch_size=8)
    kinds = [described(), described(data__order="windowed"), described(data__order="windowed", data__window=3)]
    assert all(a != b for a, b in zip(kinds, kinds[1:], strict=False))
