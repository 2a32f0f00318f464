"""`mmjax.create_model`: models by name, fresh or with weights, and callables for data loaders of one's own."""

import dataclasses
import io
import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax.config.typed_groups import to_dict
from mmjax.errors import UserError
from mmjax.interop import named_models, openclip
from tests.helpers import runs

GOLDEN = runs.ROOT / "tests/golden/interop/openclip-quickgelu"


@pytest.fixture
def golden_name(monkeypatch):
    """The name of a tiny model beside OpenCLIP's own."""
    known = dict(named_models.configs())
    tiny = json.loads((GOLDEN / "open_clip_config.json").read_text())
    other = json.loads(json.dumps(tiny).replace('"width": 16', '"width": 32'))
    words = json.loads(json.dumps(tiny).replace('"vocab_size": 40', '"vocab_size": 259'))
    known |= {"Not-built": "a CoCa", "Tiny-2": tiny, "Tiny-wide": other, "Tiny-bytes": words}
    monkeypatch.setattr(named_models, "configs", lambda: known)
    return "Tiny-2"


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)) for i in range(3)]


def test_fresh_parameters(golden_name, pictures):
    model = mmjax.create_model(golden_name, seed=1)
    assert repr(model).startswith("mmjax.Model('Tiny-2', kind='two_tower', parameters=12_241")
    assert "encode_image" in repr(model) and "source='fresh parameters, seed 1'" in repr(model)
    first, again, other = (mmjax.create_model(golden_name, seed=seed).encode_image(pictures) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-2
    assert model.logit_scale == pytest.approx(1 / 0.07)


def test_weights_without_a_config(golden_name, pictures, tmp_path):
    """Activation, heads and preprocessing come from the name; the file alone does not say."""
    shutil.copy(GOLDEN / "open_clip_model.safetensors", tmp_path)
    file = tmp_path / "open_clip_model.safetensors"
    with pytest.raises(UserError, match="shapes do not tell"):
        mmjax.load(file)
    model, reference = mmjax.create_model(golden_name, weights=file), mmjax.load(GOLDEN)
    np.testing.assert_array_equal(model.encode_image(pictures), reference.encode_image(pictures))
    np.testing.assert_array_equal(model.encode_text(np.ones((2, 7), int)), reference.encode_text(np.ones((2, 7), int)))
    assert model.source == str(file) and model.image_spec == reference.image_spec


def test_what_a_file_tells_goes_before_the_name(monkeypatch):
    """OpenAI's archives are QuickGELU: a name without it is another model."""
    opened = mmjax.load(GOLDEN.parent / "openai-jit" / "tiny.pt", **{"image.heads": 2, "text.heads": 2})
    written = openclip.to_config(to_dict(opened.config.model), dataclasses.asdict(opened.image_spec))
    gelu = json.loads(json.dumps(written))
    gelu["model_cfg"].pop("quick_gelu")
    monkeypatch.setattr(named_models, "configs", lambda: {"Quick": written, "Gelu": gelu})
    assert (
        mmjax.create_model("Quick", GOLDEN.parent / "openai-jit" / "tiny.pt").config.model.image.activation
        == "quick_gelu"
    )
    with pytest.raises(UserError, match="activation='quick_gelu', and Gelu has 'gelu'"):
        mmjax.create_model("Gelu", GOLDEN.parent / "openai-jit" / "tiny.pt")


def test_weights_of_a_run(monkeypatch, pictures, tmp_path):
    """Of the name's model; of another one they are refused."""
    assert runs.train(runs.config(steps=2, checkpoint__every=2), tmp_path) is None
    reference = mmjax.load(tmp_path)
    written = openclip.to_config(to_dict(reference.config.model), dataclasses.asdict(reference.image_spec))
    other = json.loads(json.dumps(written).replace('"layers": ', '"layers": 1'))
    monkeypatch.setattr(named_models, "configs", lambda: {"Run": written, "Deeper": other})
    model = mmjax.create_model("Run", weights=tmp_path)
    np.testing.assert_array_equal(model.encode_image(pictures), reference.encode_image(pictures))
    with pytest.raises(UserError, match=r"image.depth=\d, and Deeper has 1\d; give the name"):
        mmjax.create_model("Deeper", weights=tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Tiny-3", {}, "did you mean 'Tiny-2'"),
        ("Not-built", {}, "does not build: a CoCa; mmjax list"),
        ("Tiny-2", {"weights": "openai"}, "tags of pretrained weights have no meaning here"),
        ("Tiny-wide", {"weights": GOLDEN}, "image.width=16, and Tiny-wide has 32; give the name of the model"),
        ("Tiny-2", {"weights": GOLDEN / "none"}, "none"),
        ("Tiny-2", {"batch_size": 0}, "batch_size=0"),
        ("Tiny-2", {"batch_size": 2.5}, "batch_size=2.5 must be an integer"),
        ("Tiny-2", {"seed": "a"}, "seed='a': give an integer"),
        ("Tiny-2", {"tokenizer": 5}, "tokenizer=5: give text"),
        ("Tiny-2", {"mesh": 3}, "mesh=3"),
        ("Tiny-2", {"image_size": 8 * 10**9}, "up to 16,384"),
        ("Tiny-2", {"pretrained": "openai"}, "pretrained='openai': give weights=PATH"),
        ("Tiny-2", {"precision": "float8"}, "precision='float8'"),
        ("Tiny-2", {"image_size": 20}, "image_size=20 is not a multiple"),
    ],
)
def test_mistakes_are_one_line(golden_name, name, options, message):
    with pytest.raises(UserError, match=message) as error:
        mmjax.create_model(name, **options)
    assert "\n" not in str(error.value)


def test_callables_for_a_loader_can_be_pickled(golden_name, pictures, tmp_path):
    model = mmjax.create_model("Tiny-bytes", tokenizer="bytes")
    preprocess, tokenize = (pickle.loads(pickle.dumps(one)) for one in (model.preprocess, model.tokenize))
    pictures[0].save(tmp_path / "0.png")
    batch = np.stack([preprocess(tmp_path / "0.png"), *map(preprocess, pictures[1:])])
    assert batch.dtype == np.float32 and batch.shape == (3, 16, 16, 3)
    np.testing.assert_allclose(model.encode_image(batch), model.encode_image(pictures), atol=1e-6)
    texts = ["a cat", "two"]
    ids = tokenize(texts)
    assert ids.shape == (2, 7) and ids.dtype == np.int32 and tokenize("two").shape == (1, 7)
    np.testing.assert_array_equal(model.encode_text(ids), model.encode_text(texts))
    expected = model.encode_image(pictures) @ model.encode_text(texts).T
    np.testing.assert_array_equal(model.similarity(pictures, texts), expected)
    for call, message in (
        (lambda: tokenize(["a", 3]), "texts=.*: give a list of strings"),
        (lambda: preprocess(tmp_path / "1.png"), "1.png' cannot be read"),
        (lambda: preprocess(np.zeros((3, 3), np.float32)), "images: "),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_paths_and_bytes_are_images(golden_name, pictures, tmp_path):
    model = mmjax.create_model(golden_name)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path)
    expected = model.encode_image(pictures)
    for images in (paths, list(map(str, paths)), [path.read_bytes() for path in paths]):
        np.testing.assert_array_equal(model.encode_image(images), expected)
    for image in (paths[0], pictures[0]):
        np.testing.assert_allclose(model.encode_image(image), expected[:1], atol=1e-6)


def test_templates_as_other_libraries_have_them(golden_name, pictures):
    """With `{}`, and functions of the name, as open_clip's lists are of."""
    model = mmjax.create_model("Tiny-bytes", tokenizer="bytes")
    names, expected = ["cat", "dog"], None
    for templates in (
        ["a {c}.", "no {c}!"],
        ["a {}.", "no {}!"],
        [lambda name: f"a {name}.", lambda name: f"no {name}!"],
        {"cat": ["a cat.", "no cat!"], "dog": ["a dog.", "no dog!"]},
    ):
        result = model.zero_shot(pictures, names, templates)
        expected = result if expected is None else expected
        np.testing.assert_array_equal(result, expected)
    article = lambda name: f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    by_class = {"cat": ["a cat"], "owl": ["an owl"]}
    np.testing.assert_array_equal(
        model.zero_shot(pictures, ["cat", "owl"], [article]), model.zero_shot(pictures, ["cat", "owl"], by_class)
    )
    classifier = model.zero_shot_classifier(names, ["a {}.", "no {}!"])
    np.testing.assert_array_equal(model.zero_shot(pictures, classifier), expected)
    braces = {"cat": ["a {}.", "no {c}!"], "dog": ["a dog.", "no dog!"]}
    np.testing.assert_array_equal(model.zero_shot(pictures, names, braces), expected)
    single = model.zero_shot(pictures, names, "a {c}.")
    np.testing.assert_array_equal(model.zero_shot(pictures, names, "a {}."), single)
    np.testing.assert_array_equal(model.zero_shot(pictures, names, lambda name: f"a {name}."), single)
    for classes, templates, message in (
        (names, ["a cat"], r"'a cat' has no \{c\}"),
        (names, 5, "templates=5: give prompts"),
        ({"cat": ["a cat"]}, "a {c}.", "prompts by class are for templates="),
        (names, {"a {c}"}, "templates: a set has no order"),
        (names, {"cat": None, "dog": ["a dog"]}, "prompts of class 'cat' are None; give a list"),
        (names, {"cat": [3], "dog": ["a dog"]}, r"templates\['cat'\]=.*: give a list of strings"),
        (names, lambda: "a", "fails on 'cat' .TypeError"),
    ):
        with pytest.raises(UserError, match=message):
            model.zero_shot(pictures, classes, templates)


def test_arrays_with_their_channels_first(golden_name, pictures):
    """As torchvision reads files."""
    model = mmjax.create_model(golden_name)
    arrays = [np.asarray(picture) for picture in pictures]
    expected = model.encode_image(arrays)
    np.testing.assert_array_equal(model.encode_image([array.transpose(2, 0, 1) for array in arrays]), expected)
    one = model.preprocess(pictures[0])
    np.testing.assert_array_equal(model.encode_image(one), model.encode_image(one[None]))
    with pytest.raises(UserError, match=r"images: number 1: .*float32"):
        model.encode_image([arrays[0], np.zeros((4, 4), np.float32)])


def test_open_files_and_what_is_no_image(golden_name, pictures, tmp_path):
    model = mmjax.create_model(golden_name)
    pictures[0].save(tmp_path / "0.png")
    content = (tmp_path / "0.png").read_bytes()
    expected = model.encode_image(pictures[0])
    for one in (io.BytesIO(content), [io.BytesIO(content)], bytearray(content), [memoryview(content)]):
        np.testing.assert_array_equal(model.encode_image(one), expected)
    with (tmp_path / "0.png").open("rb") as file:
        np.testing.assert_array_equal(model.preprocess(file), model.preprocess(pictures[0]))
    closed = Image.open(tmp_path / "0.png")
    closed.close()
    for image, message in (
        (Image.open(io.BytesIO(content[:-200])), "cannot be used .*; give a whole one"),
        (closed, "cannot be used"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels"),
        ({"0.png", "1.png"}, "images: a set has no order"),
    ):
        with pytest.raises(UserError, match=message):
            model.encode_image(image)


def test_many_files_are_decoded_a_batch_at_a_time(golden_name, pictures, tmp_path):
    model = mmjax.create_model(golden_name, batch_size=2)
    pictures[0].save(tmp_path / "0.png")
    paths = [tmp_path / "0.png"] * 5
    np.testing.assert_allclose(model.encode_image(np.array(list(map(str, paths)))), model.encode_image(paths))
    assert model.encode_image(iter(paths)).shape[0] == 5 and model.encode_image([]).shape[0] == 0
    with pytest.raises(UserError, match="images: number 4: .*none.png"):
        model.encode_image([*paths[:4], tmp_path / "none.png"])
