"""Models by OpenCLIP's names: the file of them, their sizes, and what is no name."""

import numpy as np
import pytest

from mmjax.cli import main
from mmjax.errors import UserError
from mmjax.interop import named_models, param_translation
from tests.helpers import campaign, published_models

NAMES = named_models.names()


def count(name):
    shapes = param_translation.param_shapes(named_models.find(name).settings)
    return sum(int(np.prod(shape)) for shape in shapes.values())


def test_sizes_are_those_published():
    """OpenAI's ViT-B/32 and L/14; SigLIP's B/16 (203M in its paper)."""
    assert [count(name) for name in ("ViT-B-32", "ViT-L-14", "ViT-B-16-SigLIP")] == [
        151_277_313,
        427_616_513,
        203_155_970,
    ]


def test_names_match_patterns_whatever_the_case():
    assert len(NAMES) >= 64 and named_models.names("vit-l-14-336*") == ["ViT-L-14-336", "ViT-L-14-336-quickgelu"]
    assert named_models.find("ViT-B/32").name == named_models.find("vit-b-32").name == "ViT-B-32"
    assert named_models.find("ViT-L/14@336px").name == "ViT-L-14-336"
    assert named_models.names("so400m-16-siglip2") == [f"ViT-SO400M-16-SigLIP2-{size}" for size in (256, 384, 512)]
    assert named_models.find("ViT-L-14").preprocessing["std"][0] == pytest.approx(0.26862954)
    siglip = named_models.find("ViT-B-16-SigLIP")
    assert siglip.preprocessing["resize"] == "squash" and siglip.tokenizer == ""
    for name, message in (
        ("ViT-B32", "did you mean 'ViT-B-32'"),
        ("swin_base_patch4_window7_224", "does not build: .*not read"),
        ("", "mmjax list"),
    ):
        with pytest.raises(UserError, match=message):
            named_models.find(name)


def test_they_are_listed(capsys):
    assert main.main(["list", "vit-b-32*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["name", "image"] and len(lines) > 4
    assert lines[1].split() == ["ViT-B-32", "224", "32", "12", "x", "768", "77", "12", "x", "512", "512"]
    assert main.main(["list", "RN50"]) == 0 and capsys.readouterr().out.splitlines()[1].split()[:6] == [
        *("RN50", "224", "32", "16", "x", "2048")
    ]
    assert main.main(["list", "swin*"]) == 2 and "PATTERN=swin*: no model" in capsys.readouterr().err


@pytest.mark.full
def test_the_file_is_what_the_library_has():
    from scripts import openclip_models

    assert openclip_models.main(["--check"]) == 0


@pytest.mark.full
@pytest.mark.parametrize("name", campaign.some(NAMES, NAMES[::16]))
def test_open_clip_has_as_many_parameters(name, tmp_path):
    import open_clip

    theirs = published_models.build(open_clip.get_model_config(name), tmp_path)
    statistics = sum(x.numel() for key, x in theirs.named_buffers() if "running_" in key)  # parameters here
    assert sum(x.numel() for x in theirs.parameters()) + statistics == count(name)
