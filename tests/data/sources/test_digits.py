import numpy as np
import pytest
from sklearn.datasets import load_digits

from mmjax.data.source_protocols import Source
from mmjax.data.sources.digits import CLASS_NAMES, EVAL_TEMPLATES, TRAIN_TEMPLATES, Digits
from mmjax.errors import UserError


@pytest.fixture(scope="module")
def splits():
    return Digits("train"), Digits("test")


def test_splits_are_fixed_stratified_and_complete(splits):
    train, test = splits
    assert isinstance(train, Source)
    assert (len(train), len(test)) == (1442, 355)
    target = load_digits().target
    for label in range(10):
        total = (target == label).sum()
        in_test = sum(test[i]["label"] == label for i in range(len(test)))
        assert in_test == total // 5
        assert in_test + sum(train[i]["label"] == label for i in range(len(train))) == total


def test_every_image_is_in_one_split_in_order():
    train, test = Digits("train", size=8), Digits("test", size=8)
    data = load_digits()
    originals = np.round(data.images * 255 / 16).astype(np.uint8)
    for source in (train, test):
        rows, start = [], 0
        for i in range(len(source)):
            record = source[i]
            row = next(
                r
                for r in range(start, len(originals))
                if data.target[r] == record["label"] and np.array_equal(originals[r], record["image"][:, :, 0])
            )
            rows.append(row)
            start = row + 1
        assert len(rows) == len(source)
    # The fifth zero of the data set is the first zero of the test split.
    fifth_zero = np.flatnonzero(data.target == 0)[4]
    first_zero = next(r for r in map(test.__getitem__, range(len(test))) if r["label"] == 0)
    assert np.array_equal(first_zero["image"][:, :, 1], originals[fifth_zero])


@pytest.mark.parametrize("size", [32, 48])
def test_images_are_grey_rgb_of_the_asked_size(size):
    record = Digits("test", size=size)[3]
    image = record["image"]
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert np.array_equal(image[:, :, 0], image[:, :, 2]) and image.max() > 200 and image.min() < 20
    image[:] = 7
    assert Digits("test", size=size)[3]["image"].std() > 10


def test_captions_labels_and_ids_agree(splits):
    train, test = splits
    for source, templates in ((train, TRAIN_TEMPLATES), (test, EVAL_TEMPLATES)):
        for i in range(0, len(source), 13):
            record = source[i]
            name = source.class_names[record["label"]]
            assert record["captions"] == [t.replace("{c}", name) for t in templates]
            assert all(len(caption.split()) <= 20 for caption in record["captions"])
    ids = {test[i]["label"]: test[i]["id"] for i in range(len(test))}
    assert len(set(ids.values())) == 10 and all(0 <= i < 2**64 for i in ids.values())
    assert all(train[i]["id"] == ids[train[i]["label"]] for i in range(len(train)))


def test_evaluation_prompts_are_not_training_captions(splits):
    train, test = splits
    assert len(TRAIN_TEMPLATES) >= 8 and len(EVAL_TEMPLATES) >= 5
    assert not {t.strip(" .").lower() for t in TRAIN_TEMPLATES} & {t.strip(" .").lower() for t in EVAL_TEMPLATES}
    assert train.templates == test.templates == EVAL_TEMPLATES
    assert train.class_names == CLASS_NAMES and CLASS_NAMES[7] == "seven"


def test_mistakes_are_named():
    with pytest.raises(UserError, match="split='tran'.*'train'"):
        Digits("tran")
    with pytest.raises(UserError, match="size=4.*8 or more"):
        Digits("train", size=4)
    with pytest.raises(IndexError):
        Digits("test")[355]
