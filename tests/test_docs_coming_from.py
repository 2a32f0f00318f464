"""Pages for people who come from another library: its script and ours give the same numbers."""

import json

import numpy as np
import pytest
from PIL import Image

from mmjax.data.sources.shapes import Shapes
from mmjax.interop import exported_tokenizers, named_models
from tests.helpers import doc_blocks

LIBRARIES = ("open_clip", "transformers", "timm")


def scripts(library):
    """The page's two scripts: the library's, ours."""
    blocks = [block for block in doc_blocks.blocks() if block.file == f"docs/from-{library}.md"]
    first = {block.text.partition("\n")[0]: block.text for block in blocks if block.language == "python"}
    return first[f"# {library}"], first["# mmjax"]


def test_pages_have_both_scripts():
    for library in LIBRARIES:
        assert all("image_features" in script for script in scripts(library))


def results(script):
    variables = {}
    exec(compile(script, "script", "exec"), variables)
    names = ("image_features", "text_features", "probabilities")
    return {name: np.asarray(variables[name]) for name in names if name in variables}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the scripts run, with a photograph."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    picture = np.kron(Shapes("test")[0]["image"], np.ones((9, 11, 1), np.uint8))
    Image.fromarray(picture).save("photos/0.jpg", quality=95)
    return tmp_path


def small(monkeypatch, name):
    """Makes a model of OpenCLIP's small, in both libraries."""
    import open_clip

    config = json.loads(json.dumps(named_models.configs()[name]))
    model = config["model_cfg"]
    model["text_cfg"] |= dict(layers=2)
    if "timm_model_name" not in model["vision_cfg"]:
        model["vision_cfg"] |= dict(layers=2)
    monkeypatch.setattr(named_models, "configs", lambda: {name: config})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, model)
    return name


def open_clip_weights(monkeypatch, folder):
    import open_clip
    from safetensors.torch import save_file

    theirs = open_clip.create_model(small(monkeypatch, "ViT-B-32"))
    save_file(theirs.state_dict(), folder / "weights.safetensors")


def transformers_weights(monkeypatch, folder):
    import transformers

    from mmjax.data.text.make_tokenizer import make_tokenizer

    tower = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
    config = transformers.CLIPConfig(text_config=tower, vision_config=tower | dict(image_size=64), projection_dim=32)
    transformers.CLIPModel(config).save_pretrained(folder / "folder")
    size = dict(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    transformers.CLIPImageProcessorPil(**size).save_pretrained(folder / "folder")
    for name, content in exported_tokenizers.files(make_tokenizer("clip", 77)).items():
        (folder / "folder" / name).write_bytes(content)


def timm_weights(monkeypatch, folder):
    import open_clip
    from safetensors.torch import save_file

    theirs = open_clip.create_model(small(monkeypatch, "ViT-B-16-SigLIP"))
    save_file(theirs.state_dict(), folder / "weights.safetensors")


WEIGHTS = {"open_clip": open_clip_weights, "transformers": transformers_weights, "timm": timm_weights}


@pytest.mark.full
@pytest.mark.parametrize("library", LIBRARIES)
def test_both_scripts_give_the_same_numbers(monkeypatch, folder, library):
    WEIGHTS[library](monkeypatch, folder)
    theirs, ours = map(results, scripts(library))
    assert theirs.keys() == ours.keys() and len(theirs) >= 1
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape
        np.testing.assert_allclose(ours[name], expected, atol=1e-5, err_msg=name)
