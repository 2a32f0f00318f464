"""Files without a config: what published sizes tell, and what is asked for by name instead of guessed."""

import pytest

from mmjax.data.text.tokenizer import LARGEST_ID
from mmjax.errors import UserError
from mmjax.interop import (
    big_vision,
    foreign_checkpoint,
    huggingface,
    model_settings,
    openclip,
    openclip_bare,
    param_translation,
    published_towers,
)
from mmjax.interop.param_names import big_vision as big_vision_names
from mmjax.interop.param_names import huggingface as hf_names
from mmjax.interop.tensor_files import Tensors, open_tensors
from mmjax.models.variants.two_tower import variant
from tests.interop.test_foreign_checkpoint import GIVEN, GOLDEN


def shapes_of(settings, table):
    """A file of a model's names and shapes in another library's format."""
    shapes = param_translation.param_shapes(settings)
    return Tensors(
        "file", param_translation.their_shapes(param_translation.select_rows(table, shapes, "a format"), shapes), None
    )


def opened(settings):
    """The settings that are asked for, by name."""
    return [
        f"{tower}.{name}"
        for tower in model_settings.TOWERS
        for name, x in settings[tower].items()
        if type(x) is published_towers.MissingSetting
    ]


ACTIVATIONS = ["image.activation", "text.activation"]
SIGLIP_NAMING = openclip.Naming(image="timm_siglip", custom_text=True, projection_bias=True)
CLIP_NAMING = openclip.Naming(image="vit", custom_text=False, projection_bias=False)


def read_clip(**image):
    """H/14 in OpenCLIP's names, its image tower changed."""
    settings = variant("H/14")
    settings["image"] |= image | dict(depth=1)
    settings["text"]["depth"] = 1
    return openclip_bare.from_shapes(shapes_of(settings, CLIP_NAMING.table(settings["image"])), CLIP_NAMING)


def test_published_sizes_ask_for_the_activation_alone():
    settings = read_clip()
    assert opened(settings) == ACTIVATIONS
    assert (settings["image"]["heads"], settings["text"]["heads"]) == (16, 16)
    assert (settings["image"]["image_size"], settings["text"]["eos_id"]) == (224, LARGEST_ID)


@pytest.mark.parametrize(
    "changes, missing",
    [
        (dict(width=768, heads=12, mlp_dim=1536), ["image.heads", "image.norm_eps"]),  # 64 divides the width
        (dict(width=640, heads=10, mlp_dim=2560), ["image.heads", "image.norm_eps"]),  # of a text tower
        (dict(image_size=238), ["image.image_size"]),  # 17 patches
        (dict(pre_norm=False), ["image.pool"]),
    ],
)
def test_other_sizes_are_asked_for_by_name(changes, missing):
    settings = read_clip(**changes)
    assert sorted(set(opened(settings)) - set(ACTIVATIONS)) == missing
    with pytest.raises(UserError, match=f"do not tell activation, .*{missing[0]}.*--model-config {missing[0]}="):
        model_settings.complete(settings, "file")


def test_an_unknown_vocabulary_is_asked_about():
    settings = variant("B/32")
    settings["text"] |= dict(vocab_size=49_409, depth=1)
    settings["image"]["depth"] = 1
    names = ["text.norm_eps", "text.causal", "text.eos_id", "text.pool"]
    read = openclip_bare.from_shapes(shapes_of(settings, CLIP_NAMING.table(settings["image"])), CLIP_NAMING)
    assert sorted(opened(read)) == sorted([*ACTIVATIONS, *names])
    # A class of Hugging Face's is causal and pools at an id.
    read = huggingface.from_shapes(shapes_of(settings, hf_names.CLIP), "clip")
    assert sorted(opened(read)) == sorted([*ACTIVATIONS, "text.eos_id"])
    # Where the pooling that is given reads no end of text, none is asked for.
    read = openclip_bare.from_shapes(shapes_of(settings, CLIP_NAMING.table(settings["image"])), CLIP_NAMING)
    model_settings.apply_overrides(
        read, {"activation": "gelu", "norm_eps": 1e-5, "text.causal": False, "text.pool": "last"}
    )
    model_settings.complete(read, "file")


@pytest.mark.parametrize("name, heads", [("H/14", (16, 16)), ("siglip-So400m/14", (16, 16)), ("siglip-B/16", (12, 12))])
def test_hugging_faces_towers(name, heads):
    settings = variant(name)
    for tower in model_settings.TOWERS:
        settings[tower]["depth"] = 1
    family = "clip" if name == "H/14" else "siglip"
    read = huggingface.from_shapes(shapes_of(settings, huggingface.table(family)), family)
    assert opened(read) == ACTIVATIONS and tuple(read[tower]["heads"] for tower in model_settings.TOWERS) == heads


@pytest.mark.parametrize("pixels, missing", [(224, []), (384, ["image.image_size"]), (378, ["image.image_size"])])
def test_two_sizes_of_27_patches(pixels, missing):
    """So400m/14 was published for 384 pixels, of which a convolution leaves the last six out, and for 378."""
    settings = variant("siglip-So400m/14")
    settings["image"] |= dict(image_size=pixels, crop_to_patches=pixels % 14 != 0, depth=1)
    settings["text"]["depth"] = 1
    assert opened(big_vision.from_shapes(shapes_of(settings, big_vision_names.TABLE))) == missing


@pytest.mark.parametrize(
    "naming, name, vocab_size, kind",
    [
        (CLIP_NAMING, "B/32", 49_408, "clip"),
        (CLIP_NAMING, "B/32", 901_629, "json+whitespace"),
        (CLIP_NAMING, "B/32", 250_100, "json+canonicalize"),
        (CLIP_NAMING, "B/32", 50_000, ""),  # asked for
        (SIGLIP_NAMING, "siglip-B/16", 32_000, "json+canonicalize"),
        (SIGLIP_NAMING, "siglip-B/16", 256_000, "json+canonicalize"),
    ],
)
def test_tokenizers_by_vocabulary(naming, name, vocab_size, kind, tmp_path):
    settings = variant(name)
    settings["text"] |= dict(vocab_size=vocab_size, depth=1)
    settings["image"]["depth"] = 1
    (tmp_path / "tokenizer.json").write_text("{}")
    tensors = shapes_of(settings, naming.table(settings["image"]))
    *_, tokenizer = foreign_checkpoint._openclip(tensors, "openclip", None, tmp_path / "open_clip_config.json")
    assert tokenizer.partition(":")[0] == kind


def test_openai_is_known_by_its_marks_and_not_by_its_kind_of_archive():
    """OpenCLIP traces models to TorchScript too, whatever their activation."""
    (file,) = (GOLDEN / "openai-jit").glob("*.pt")
    marked = open_tensors(file)
    unmarked = marked.renamed(lambda name: None if name == "input_resolution" else name)
    settings = openclip_bare.from_shapes(marked, CLIP_NAMING)
    assert opened(settings) == ["image.heads", "text.heads"]
    assert set(ACTIVATIONS) < set(opened(openclip_bare.from_shapes(unmarked, CLIP_NAMING)))
    assert foreign_checkpoint.open_checkpoint(file, GIVEN["openai-jit"]).settings["image"]["activation"] == "quick_gelu"


@pytest.mark.parametrize(
    "names, sentence",
    [
        (
            ["visual.trunk.stages.0.blocks.0.mlp.grn.weight"],
            r"a ConvNeXt V2 \(visual.trunk.stages.0.blocks.0.mlp.grn.weight\), which is not read",
        ),
        (["text.transformer.layers.0.fc1.bias", "visual.conv1.weight"], "a Hugging Face text tower"),
        (
            ["visual.trunk.pos_embed", "visual.trunk.blocks.0.attn.qkv.weight"],
            "a tower of timm's that is not read; of those mmjax has those of SigLIP, EVA",
        ),
    ],
)
def test_other_architectures_are_named(names, sentence):
    with pytest.raises(UserError, match=sentence):
        foreign_checkpoint._refuse_unsupported(Tensors("file", dict.fromkeys(names, (2,)), None))


def test_siglips_own_names_are_none_of_those():
    for name, table in (
        ("siglip-B/16", SIGLIP_NAMING.table({})),
        ("B/32", CLIP_NAMING.table({})),
        ("B/32", hf_names.CLIP),
    ):
        settings = variant(name)
        for tower in model_settings.TOWERS:
            settings[tower]["depth"] = 1
        foreign_checkpoint._refuse_unsupported(shapes_of(settings, table))
