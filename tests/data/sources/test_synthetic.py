import pickle

import numpy as np
import pytest

from mmjax.data.mixture import open_source
from mmjax.data.source_protocols import Source, SourceOptions
from mmjax.data.sources.synthetic import Synthetic
from mmjax.errors import UserError
from tests.helpers.source_checks import train_examples


def test_examples_are_the_same_every_time_and_differ():
    source, again = (Synthetic("200", options=SourceOptions(image_size=24)) for _ in range(2))
    assert isinstance(source, Source) and len(source) == 200
    copy = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 200
    for i in range(200):
        assert source[i]["image"].shape == (24, 24, 3) and source[i]["image"].dtype == np.uint8
        for other in (again[i], copy[i]):
            assert np.array_equal(other["image"], source[i]["image"])
            assert (other["captions"], other["id"]) == (source[i]["captions"], i)
    assert len({source[i]["image"].tobytes() for i in range(200)}) > 190
    assert len({source[i]["captions"][0] for i in range(200)}) > 100
    assert source[5]["image"].std() > 60  # noise, which no format packs


def test_each_comes_once_an_epoch():
    examples = train_examples(Synthetic("50", options=SourceOptions(image_size=8)))
    assert sorted(int(examples[i]["id"][0]) for i in range(50)) == list(range(50))


def test_there_are_a_million_unless_said_otherwise():
    assert len(open_source("synthetic")) == 1_000_000 and len(open_source("synthetic/12")) == 12
    for spec in ("synthetic/0", "synthetic/-3", "synthetic/many", "synthetic/1e6"):
        with pytest.raises(UserError, match=f"data.train='{spec}': .* write synthetic/1000"):
            open_source(spec)


@pytest.mark.parametrize(("field", "most"), [("data.train", 10**12), ("data.eval", 10**6), ("datasets.x", 10**6)])
def test_more_examples_than_will_ever_be_read(field, most):
    assert len(open_source(f"synthetic/{most}", field=field)) == most
    for length in (most + 1, 10**30):
        with pytest.raises(UserError, match=f"^{field}='synthetic/{length}' is more than {most:,} examples"):
            open_source(f"synthetic/{length}", field=field)
