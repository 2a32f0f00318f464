import itertools
import random
import re

import numpy as np
import pytest

from mmjax.data.source_protocols import Source
from mmjax.data.sources import shapes
from mmjax.data.sources.shapes import COLORS, RADII, RELATIONS, SHAPES, Scene, Shapes
from mmjax.errors import UserError

OBJECT = rf"a ({'|'.join(RADII)}) ({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"


@pytest.fixture(scope="module")
def held_out():
    source = Shapes("test")
    return [source[i] for i in range(len(source))]


@pytest.fixture(scope="module")
def train_sample():
    source = Shapes("train")
    return [source[i] for i in range(4000)]


def same(a, b):
    return np.array_equal(a["image"], b["image"]) and all(a[k] == b[k] for k in ("captions", "id", "annotation"))


def kinds(record):
    return [(o["size"], o["color"], o["shape"]) for o in record["annotation"]["objects"]]


def read_caption(text):
    """Parses a caption into (kinds, {(kind, relation, kind)}), with nothing from the module but its vocabulary."""
    kinds = [m.groups() for m in re.finditer(OBJECT, text)]
    skeleton = re.sub(OBJECT, "O", text)
    relation = "(left of|right of|above|below)"
    if m := re.fullmatch(f"O {relation} O(?: and {relation} O)?", skeleton):
        facts = {(kinds[0], r, kinds[1 + i]) for i, r in enumerate(m.groups()) if r}
    else:
        assert skeleton == "O", text
        facts = set()
    return kinds, facts


def with_inverses(facts):
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    return facts | {(b, opposite[r], a) for a, r, b in facts}


def test_references_are_the_wordings_that_captions_are_drawn_from(train_sample, held_out):
    for record in train_sample + held_out:
        references = record["references"]
        assert record["captions"][0] in references and len(set(references)) == (1 if len(kinds(record)) == 1 else 2)
        facts = [with_inverses(read_caption(text)[1]) for text in references]
        assert all(fact == facts[0] for fact in facts)
    first = sum(record["captions"][0] == record["references"][0] != record["references"][-1] for record in train_sample)
    assert 0.42 < first / len(train_sample) < 0.48  # half of the nine in ten that have two


def test_is_a_source_with_the_promised_lengths():
    train, test = Shapes("train"), Shapes("test")
    assert isinstance(train, Source) and isinstance(test, Source)
    assert (len(train), len(test), len(Shapes("train", length=7))) == (1_000_000, 1_000, 7)
    assert train.class_names is None and train.templates is None
    with pytest.raises(IndexError):
        train[1_000_000]
    assert same(train[-1], train[999_999])


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("size", [32, 57])
def test_an_example_is_a_pure_function_of_its_index(split, size):
    a, b = Shapes(split, size=size), Shapes(split, size=size)
    order = [5, 999, 0, 123]
    first = {i: a[i] for i in order}
    assert all(same(first[i], b[i]) for i in reversed(order))
    first[5]["image"][:] = 0  # what a caller does with a record must not come back
    first[5]["annotation"]["objects"].clear()
    assert same(a[5], b[5]) and a[5]["image"].any()
    assert a[0]["image"].shape == (size, size, 3) and a[0]["image"].dtype == np.uint8


def test_the_first_examples_do_not_change():
    # A change here changes every training run and result on shapes: deliberately, and noted, or not at all.
    source = Shapes("train")
    assert [source[i]["captions"][0] for i in (0, 1, 999_999)] == [
        "a large yellow square below a small yellow triangle and right of a large yellow cross",
        "a large green cross left of a small green ring",
        "a small green square left of a large yellow circle",
    ]
    assert int(source[0]["image"].astype(int).sum()) == 291831


def test_train_and_test_do_not_share_descriptions_but_every_part_of_them(held_out, train_sample):
    assert not {r["id"] for r in held_out} & {r["id"] for r in train_sample}
    rng = random.Random(0)
    drawn = [shapes.draw_scene(rng, 2 + i % 2) for i in range(3000)]
    assert 0.08 < np.mean([shapes.is_held_out(scene) for scene in drawn]) < 0.12
    train_kinds = set(itertools.chain.from_iterable(map(kinds, train_sample)))
    assert len(train_kinds) == 2 * 8 * 5


def test_descriptions_are_equal_exactly_for_equal_meanings():
    a, b, c = ("small", "red", "circle"), ("large", "blue", "square"), ("small", "green", "ring")
    assert shapes.scene_id(Scene((a, b), ((0, "left of", 1),))) == shapes.scene_id(Scene((b, a), ((0, "right of", 1),)))
    assert shapes.scene_id(Scene((a, b), ((0, "above", 1),))) == shapes.scene_id(Scene((b, a), ((0, "below", 1),)))
    swapped = Scene((a, c, b), ((0, "above", 1), (0, "left of", 2)))
    assert shapes.scene_id(Scene((a, b, c), ((0, "left of", 1), (0, "above", 2)))) == shapes.scene_id(swapped)
    two = {shapes.scene_id(Scene((a, b), ((0, relation, 1),))) for relation in RELATIONS}
    three = {
        shapes.scene_id(Scene(objects, ((0, h, 1), (0, v, 2))))
        for objects in itertools.permutations((a, b, c))
        for h in RELATIONS[:2]
        for v in RELATIONS[2:]
    }
    assert len(two) == 4 and len(three) == 24


def test_test_scenes_are_pairwise_different_and_mostly_of_several_objects(held_out):
    counts = np.bincount([len(kinds(r)) for r in held_out], minlength=4)
    assert counts.tolist() == [0, 40, 480, 480]
    assert len({r["id"] for r in held_out}) == 1000
    assert len({r["captions"][0] for r in held_out}) == 1000
    facts = [read_caption(r["captions"][0]) for r in held_out]
    assert len({(tuple(sorted(k)), tuple(sorted(with_inverses(f)))) for k, f in facts}) == 1000
    short = Shapes("test", length=50)
    assert all(same(short[i], held_out[i]) for i in range(50))


def test_captions_say_everything_and_nothing_else(held_out, train_sample):
    forms = set()
    for record in held_out + train_sample:
        (text,) = record["captions"]
        assert len(text.split()) <= 16
        description, facts = read_caption(text)
        true = kinds(record)
        assert sorted(description) == sorted(true)
        assert with_inverses(facts) == with_inverses(
            {(true[i], r, true[j]) for i, r, j in record["annotation"]["relations"]}
        )
        forms.add(re.sub(OBJECT, "O", text))
    assert len(forms) == 1 + 4 + 2 * 4  # one object; two; three, whose two relations come in either order


def test_relations_hold_for_the_drawn_pixels(held_out):
    """Finds objects by colour alone, where a scene's colours differ, and compares centroids and extents."""
    names, palette = list(COLORS), np.array(list(COLORS.values()))
    checked = 0
    for record in held_out[:400]:
        objects = record["annotation"]["objects"]
        if len({o["color"] for o in objects}) < len(objects):
            continue
        distance = np.linalg.norm(record["image"][:, :, None].astype(int) - palette, axis=-1)
        nearest = np.where(distance.min(-1) < 60, distance.argmin(-1), -1)
        centres = []
        for item in objects:
            y, x = np.nonzero(nearest == names.index(item["color"]))
            assert len(x) >= 5
            centres.append((x.mean() + 0.5, y.mean() + 0.5))
            assert abs(centres[-1][0] - item["x"]) < 1 and abs(centres[-1][1] - item["y"]) < 2.2  # a triangle's is low
            extent = max(np.ptp(x), np.ptp(y)) + 1
            limit = {"triangle": 9.5, "square": 9.5}.get(item["shape"], 10.5)
            assert (extent > limit) == (item["size"] == "large")
        for i, relation, j in record["annotation"]["relations"]:
            dx, dy = np.subtract(centres[j], centres[i])
            along, across = (dx, dy) if relation in ("left of", "right of") else (dy, dx)
            assert along * (1 if relation in ("left of", "above") else -1) > 7
            assert abs(across) < abs(along) * 0.7
            checked += 1
    assert checked > 300


@pytest.mark.parametrize("size", [32, 64, 97])
def test_objects_keep_clear_of_the_border_and_of_one_another(size):
    source, scale = Shapes("train", size=size), size / 32
    for i in range(300):
        objects = source[i]["annotation"]["objects"]
        for item in objects:
            # Positions are rounded down to a fraction of a pixel.
            assert item["radius"] + 2 * scale - 0.25 <= min(item["x"], item["y"])
            assert max(item["x"], item["y"]) <= size - item["radius"] - 2 * scale
        for a, b in itertools.combinations(objects, 2):
            assert max(abs(a["x"] - b["x"]), abs(a["y"] - b["y"])) >= a["radius"] + b["radius"]
    border = np.stack([Shapes("test", size=32)[i]["image"] for i in range(100)])
    border[:, 2:-2, 2:-2] = 0
    assert border.max() < 100


def test_shapes_and_sizes_look_different():
    """Same place, same colour: any two of the ten silhouettes differ in at least a sixth of the smaller one's area."""
    silhouettes = []
    for size, shape in itertools.product(RADII, SHAPES):
        item = {"color": "white", "shape": shape, "size": size, "x": 16.0, "y": 16.0, "radius": RADII[size][1]}
        silhouettes.append(shapes.render([item], random.Random(0), 32)[:, :, 0] / 255)
    for a, b in itertools.combinations(silhouettes, 2):
        background = silhouettes[0][0, 0]
        assert abs(a - b).sum() > min((a - background).sum(), (b - background).sum()) / 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "tset"}, ["split", "'tset'", "'test'"]),
        ({"size": 16}, ["size=16", "32"]),
        ({"split": "test", "length": 5000}, ["length=5000", "2000"]),
        ({"length": 0}, ["length=0"]),
    ],
)
def test_mistakes_are_named(arguments, words):
    with pytest.raises(UserError) as error:
        Shapes(**arguments)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
