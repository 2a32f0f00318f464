"""Renaming: by `init_map`, by name, by tower."""

import pytest

from mmjax.config import parse
from mmjax.errors import UserError
from mmjax.parallel import partition
from mmjax.training import init_names, init_towers
from mmjax.training.init_towers import Tower
from tests.helpers import model_kinds

THEIRS = ["image/norm/scale", "image/layers/fc1", "image_head/projection/kernel", "text/norm/scale", "logit_scale"]
CLIP = [Tower("image", "image", "image", {}), Tower("text", "text", "text", {})]


def match(init_map, ours, towers, theirs=THEIRS, their_towers=CLIP, **options):
    return init_names.match(init_map, theirs, ours, their_towers, towers, **options)


def test_names_stay():
    assert match((), THEIRS, CLIP) == {name: name for name in THEIRS}


def test_the_only_tower_of_a_kind_and_its_head():
    towers = [Tower("video", "frames", "video", {}), Tower("video/image", "image", "video", {})]
    ours = ["video/image/norm/scale", "video/norm/scale", "video_head/projection/kernel", "logit_scale"]
    assert match((), ours, towers) == {
        "video/image/norm/scale": "image/norm/scale",
        "video_head/projection/kernel": "image_head/projection/kernel",
        "logit_scale": "logit_scale",
    }
    fused = [
        Tower("encoder_a", "image", "", {}),
        Tower("encoder_b", "text", "", {}),
        Tower("encoder_c", "image", "", {}),
    ]
    ours = ["encoder_a/norm/scale", "encoder_b/norm/scale", "encoder_c/layers/fc1", "head/kernel"]
    assert match((), ours, fused) == dict(
        zip(ours[:3], ["image/norm/scale", "text/norm/scale", "image/layers/fc1"], strict=True)
    )


def test_of_two_towers_of_a_kind_none_is_guessed():
    theirs = ["encoder_a/norm/scale", "encoder_b/norm/scale"]
    towers = [Tower("encoder_a", "image", "", {}), Tower("encoder_b", "image", "", {})]
    options = dict(theirs=theirs, their_towers=towers)
    assert match((), ["image/norm/scale"], CLIP[:1], **options) == {}
    init_map = (("encoder_b/(.*)", r"image/\1"),)
    assert match(init_map, ["image/norm/scale"], CLIP[:1], **options) == {"image/norm/scale": "encoder_b/norm/scale"}


def test_another_kind_of_the_same_name_is_not_taken():
    video, frames = ([Tower("video", kind, "video", {})] for kind in ("video", "frames"))
    assert match((), ["video/norm/scale"], frames, ["video/norm/scale"], video) == {}


def test_the_first_pattern_wins_and_names_go_before_defaults():
    init_map = (("text/norm/(.*)", r"image/norm/\1"), ("text/.*", "nothing"), ("logit_(.*)", r"logit_\1"))
    with pytest.raises(
        UserError, match=r"init_map\[1\]=\('text/.\*', 'nothing'\) makes 'nothing' of 'text/norm/scale'"
    ):
        match(init_map, THEIRS, CLIP)
    renamed = match((init_map[0], init_map[2]), THEIRS, CLIP)
    assert renamed["image/norm/scale"] == "text/norm/scale" and renamed["logit_scale"] == "logit_scale"
    assert "text/norm/scale" not in renamed


@pytest.mark.parametrize(
    "init_map, message",
    [
        ((("audio/.*", "image"),), r"init_map\[0\]=\('audio/.\*', 'image'\) matches none of the source's parameters"),
        ((("(", "image"),), r"init_map\[0\]=\('\(', 'image'\) is no regular expression with its replacement"),
        (((".*", r"\2"),), r"init_map\[0\].* is no regular expression with its replacement: invalid group reference"),
        ((("text/(.*)", r"texts/\1"),), "and the model has no such parameter .did you mean 'text/norm/scale'"),
        ((("(image|text)/norm/scale", "text/norm/scale"),), "makes text/norm/scale of both image/norm/scale and text/"),
    ],
)
def test_mistakes(init_map, message):
    with pytest.raises(UserError, match=message):
        match(init_map, THEIRS, CLIP)


def test_what_is_taken_by_the_map_alone():
    ours = ["encoder_video/norm/scale", "head/kernel"]
    towers, theirs = [Tower("encoder_video", "video", "", {})], ["video/norm/scale", "head/kernel"]
    options = dict(theirs=theirs, their_towers=[Tower("video", "video", "video", {})], only_mapped=["head/kernel"])
    assert match((), ours, towers, **options) == {"encoder_video/norm/scale": "video/norm/scale"}
    assert match((("head/(.*)", r"head/\1"),), ours, towers, **options)["head/kernel"] == "head/kernel"


def test_a_qformer_goes_on_in_front_of_a_decoder():
    """BLIP-2's second stage from its first: the map that docs/interop.md has."""
    theirs, ours = (partition.flattened(model_kinds.shapes(name)) for name in ("tiny-qformer", "tiny-blip2"))
    towers = [init_towers.towers(parse(model_kinds.config(name)).model) for name in ("tiny-qformer", "tiny-blip2")]
    renamed = (("queries", "qformer/queries"), (r"text/(norm_embed|transformer)/(.*)", r"qformer/\1/\2"))
    names = match(renamed, ours, towers[1], theirs, towers[0])
    wanted = {path for path in ours if path.startswith(("qformer/", "image/"))}
    assert wanted <= names.keys() and len([path for path in wanted if path.startswith("qformer/")]) > 10
    assert all(theirs[names[path]].shape == ours[path].shape for path in wanted)
