"""Weights as other libraries wrote them give what those libraries computed (see make_interop.py)."""

import hashlib
import json

import numpy as np
import pytest

from mmjax.data.text.tokenizer import LARGEST_ID
from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint, model_settings, openclip, openclip_bare, param_translation
from mmjax.interop.tensor_files import Tensors
from tests.helpers import runs
from tests.helpers.towers import encode

GOLDEN = runs.ROOT / "tests/golden/interop"
HEADS = {"image.heads": 2, "text.heads": 2}
SIZE = {"image.image_size": 16}
AS_CLIP = SIZE | {"text.causal": True, "text.pool": "eos", "text.eos_id": LARGEST_ID}
AS_SIGLIP = SIZE | {"text.causal": False, "text.pool": "last"}
# What no config file lies there to tell, and no published model of these sizes.
GIVEN = {
    "openai-jit": HEADS,
    "openclip-custom": AS_CLIP | HEADS | {"activation": "gelu", "norm_eps": 1e-5},
    "openclip-siglip": AS_SIGLIP | HEADS | {"activation": "gelu_tanh", "norm_eps": 1e-6},
    "big_vision": AS_SIGLIP,
    "big_vision-scanned": AS_SIGLIP,
}
FORMATS = {
    "hf-clip": "hf-clip",
    "hf-clip-legacy": "hf-clip",
    "hf-siglip": "hf-siglip",
    "big_vision": "big_vision",
    "big_vision-scanned": "big_vision",
    "openclip-quickgelu": "openclip",
    "openai-jit": "openclip",
    "openclip-custom": "openclip",
    "openclip-siglip": "openclip",
}


def expected(name):
    with np.load(GOLDEN / name / "expected.npz") as file:
        return dict(file)


def opened(name, **changes):
    """The folder holds the inputs too, so files that no config names are given by path."""
    folder = GOLDEN / name
    files = [file for file in folder.iterdir() if file.suffix in (".pt", ".npz") and file.stem != "expected"]
    return foreign_checkpoint.open_checkpoint(files[0] if files else folder, GIVEN.get(name, {}) | changes)


@pytest.mark.parametrize("name", FORMATS)
def test_computes_what_the_library_computed(name):
    checkpoint, want = opened(name), expected(name)
    assert checkpoint.format == FORMATS[name]
    image, text = encode(checkpoint, want["images"], want["ids"])
    scalars = checkpoint.read(lambda _, array: float(array), lambda path: path.startswith("logit_"))
    logits = np.exp(scalars["logit_scale"]) * image @ text.T + scalars.get("logit_bias", 0.0)
    for result, key in ((image, "image"), (text, "text"), (logits, "logits")):
        np.testing.assert_allclose(result, want[key], atol=1e-5, err_msg=key)


@pytest.mark.parametrize(
    "name, changes",
    [("openai-jit", {"text.activation": "gelu"}), ("openclip-custom", {"text.norm_eps": 1e-3})],
)
def test_a_wrong_setting_would_show(name, changes):
    """The tolerance of the test above is tight enough to tell them apart."""
    want = expected(name)
    assert abs(encode(opened(name, **changes), None, want["ids"])[1] - want["text"]).max() > 1e-4


def test_preprocessing_comes_from_the_files():
    result = opened("hf-clip").preprocessing
    assert (result["size"], result["resize"], result["interpolation"]) == (16, "crop", "bilinear")
    assert result["image_rule"] == "huggingface"
    assert result["mean"] == [0.485, 0.456, 0.406] and result["std"] == [0.229, 0.224, 0.225]
    result = opened("openclip-quickgelu").preprocessing
    assert (result["resize"], result["interpolation"], result["mean"]) == ("squash", "bilinear", [0.5, 0.5, 0.5])
    assert result["image_rule"] == "open_clip"
    # Without a file, the family's own.
    result = opened("hf-siglip").preprocessing
    assert (result["resize"], result["interpolation"], result["mean"]) == ("squash", "bicubic", (0.5, 0.5, 0.5))


def test_openai_archives_are_known_to_be_quick_gelu():
    assert {opened("openai-jit").settings[tower]["activation"] for tower in ("image", "text")} == {"quick_gelu"}


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("openclip-custom", AS_CLIP | HEADS, "do not tell activation, norm_eps; give"),
        (
            "openclip-custom",
            AS_CLIP | {"activation": "gelu", "norm_eps": 1e-5},
            r"do not tell heads \(no published tower has width 16 and MLPs of 24\); give .*load\(path, heads=8\)",
        ),
        (
            "openclip-custom",
            AS_CLIP | HEADS | {"image.activation": "gelu", "norm_eps": 1e-5},
            r'do not tell text.activation; .* \*\*\{"text.activation": "quick_gelu"\}.*'
            "--model-config text.activation=quick",
        ),
        (
            "openclip-custom",
            HEADS | {"activation": "gelu", "norm_eps": 1e-5},
            r"do not tell image.image_size \(2 patches of 8 are cut from 16 to 23 pixels\), text.causal \(no published"
            r" model has 40 ids\), text.eos_id \(-1 for the largest of each text\), text.pool; .*"
            r"--model-config text.causal=True --model-config text.eos_id=39 --model-config text.pool=eos",
        ),
    ],
)
def test_what_shapes_do_not_tell_is_asked_for(name, changes, message):
    with pytest.raises(UserError, match=message):
        foreign_checkpoint.open_checkpoint(GOLDEN / name / "epoch_3.pt", changes)


PUBLISHED = json.loads((GOLDEN / "openclip_configs.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_of_openclip_have_its_names_and_shapes(name):
    golden = PUBLISHED[name]
    model = openclip.from_config(golden["config"], name)
    model_settings.complete(model, name)
    shapes = param_translation.param_shapes(model)
    naming = openclip.Naming(
        image="timm_siglip" if "timm_model_name" in golden["config"]["vision_cfg"] else "vit",
        custom_text=golden["config"].get("custom_text", False),
        projection_bias=model["text"]["projection"] == "bias",
    )
    theirs = param_translation.their_shapes(
        param_translation.select_rows(naming.table(model["image"]), shapes, "OpenCLIP"), shapes
    )
    listed = sorted(f"{key} {list(shape)}" for key, shape in theirs.items())
    assert (len(listed), sum(int(np.prod(shape)) for shape in theirs.values())) == (golden["arrays"], golden["numbers"])
    assert hashlib.sha256("\n".join(listed).encode()).hexdigest() == golden["sha256"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_written_again_says_the_same(name):
    model = openclip.from_config(PUBLISHED[name]["config"], name)
    model_settings.complete(model, name)
    prepared = dict(size=1, resize="crop", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)
    again = openclip.from_config(openclip.to_config(model, prepared), name)
    model_settings.complete(again, name)
    assert again == model


def test_published_shapes_alone_tell_the_same_model():
    """Names and shapes of B/32, without a config, give its settings but for its activation."""
    model = openclip.from_config(PUBLISHED["ViT-B-32"]["config"], "B/32")
    shapes = param_translation.param_shapes(model)
    naming = openclip.Naming(image="vit", custom_text=False, projection_bias=False)
    theirs = param_translation.their_shapes(
        param_translation.select_rows(naming.table(model["image"]), shapes, "OpenCLIP"), shapes
    )
    read = openclip_bare.from_shapes(Tensors("file", theirs, lambda name: None), naming)
    model_settings.apply_overrides(read, {"activation": "gelu"})
    assert read == model
