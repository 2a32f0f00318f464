import itertools

import numpy as np
import pytest

from mmjax.data.mixture import open_source
from mmjax.data.record import record_mistake
from mmjax.data.source_protocols import HasModalities, Source
from mmjax.data.sources import moving
from mmjax.data.sources.actions import CLASS_NAMES, Actions, best_accuracy
from mmjax.data.sources.moving import DIRECTIONS, MOTIONS, WALLS, Moving
from mmjax.errors import UserError

MATERIALS = tuple(WALLS)


@pytest.fixture(scope="module")
def many():
    """Records of the training split without their arrays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moving, "render", lambda *args: np.zeros(1, np.uint8))
        patch.setattr(moving, "sound", lambda *args: np.zeros(1, np.float32))
        source = Actions()
        return [source[i] for i in range(720)]


def test_records_are_those_of_moving_with_a_label():
    source, scenes = Actions("test"), Moving("test")
    assert isinstance(source, Source) and isinstance(source, HasModalities) and len(source) == len(scenes)
    for i in (0, 5, -1):
        record, scene = source[i], scenes[i]
        assert record_mistake(record) == "" and record.keys() - scene.keys() == {"label"}
        assert all(np.array_equal(record["modalities"][name], scene["modalities"][name]) for name in ("video", "audio"))
        motion, walls = divmod(record["label"], 3)
        objects = record["annotation"]["objects"]
        sideways = sum(item["direction"] in ("left", "right") for item in objects)
        assert MOTIONS[motion] == {2: "sideways", 0: "up and down", 1: "crosswise"}[sideways]
        moved = [np.ptp(item["x"]) > np.ptp(item["y"]) for item in objects]
        assert sum(moved) == sideways
        assert source.class_names[record["label"]] == CLASS_NAMES[3 * motion + walls]
        assert CLASS_NAMES[record["label"]].endswith(f"walls of {record['annotation']['walls']}")
    assert len(set(CLASS_NAMES)) == 9
    with pytest.raises(IndexError):
        source[1000]


def test_classes_are_balanced(many):
    labels = [record["label"] for record in many]
    assert abs(np.bincount(labels, minlength=9) - len(many) / 9).max() < 4 * (len(many) / 9) ** 0.5
    test = moving._test_scenes(1000)
    counts = [sum(moving.motion(scene) == name for scene in test) for name in MOTIONS]
    assert abs(np.array(counts) - 1000 / 3).max() < 4 * (1000 / 3 * 2 / 3) ** 0.5


def majority(keys, labels):
    """Accuracy of the most frequent label of each key in one half, on the other half."""
    half = len(keys) // 2
    known = {}
    for key, label in zip(keys[:half], labels[:half], strict=True):
        known.setdefault(key, []).append(label)
    best = {key: np.bincount(seen).argmax() for key, seen in known.items()}
    return np.mean([best.get(key, 0) == label for key, label in zip(keys[half:], labels[half:], strict=True)])


def test_neither_modality_tells_more_of_the_class_than_its_bound(many):
    """By all that the annotation says is seen or heard."""
    labels = np.array([record["label"] for record in many])
    objects = [record["annotation"]["objects"] for record in many]
    seen = [tuple(item["direction"] for item in pair) for pair in objects]
    heard = [
        (r["annotation"]["walls"], sum(item["bounces"] for item in pair), pair[0]["speed"], pair[1]["speed"])
        for r, pair in zip(many, objects, strict=True)
    ]
    spread = 4 * (2 / 9 / (len(many) // 2)) ** 0.5
    assert abs(majority(seen, labels) - best_accuracy(["video"])) < spread
    assert abs(majority(heard, labels) - best_accuracy(["audio"])) < spread
    both = [(one, other[0]) for one, other in zip(seen, heard, strict=True)]
    assert majority(both, labels) == best_accuracy(["video", "audio"]) == 1
    assert best_accuracy(["video"]) == best_accuracy(["audio"]) == pytest.approx(1 / 3)


def test_the_sound_does_not_depend_on_the_motion_nor_the_picture_on_the_walls():
    first = next(iter(moving.descriptions()))
    pairs = itertools.product(DIRECTIONS, repeat=2)
    scenes = [tuple(o._replace(direction=d) for o, d in zip(first, pair, strict=True)) for pair in pairs]
    sounds, pictures = set(), set()
    for scene in scenes:
        objects = moving.place_objects(scene, np.random.default_rng(3), 32, 8)
        sounds.add(moving.sound(objects, "metal", np.random.default_rng(4), 8000).tobytes())
    for walls in MATERIALS:
        rng = np.random.default_rng(5)
        objects = moving.place_objects(first, rng, 32, 8)
        pictures.add(moving.render(objects, rng, 32, 8).tobytes())
        sounds.add(moving.sound(objects, walls, np.random.default_rng(4), 8000).tobytes())
    assert len(sounds) == 1 + 3 and len(pictures) == 1 and len(scenes) == 16


def test_the_source_has_a_name_and_splits():
    assert open_source("actions").name == "actions/train" and open_source("actions/test").name == "actions"
    assert Actions("test", frames=16, size=64, sample_rate=16000, length=3).modality_shapes == {
        "video": (16, 64, 64, 3),
        "audio": (16000,),
    }
    with pytest.raises(UserError, match="data.eval='actions/tset': split='tset'.*did you mean 'test'"):
        open_source("actions/tset", field="data.eval")
