"""How images are prepared comes from the files of the library; what mmjax does not do is refused, naming the file."""

import json
import shutil

import numpy as np
import pytest

from mmjax.data.image.transforms import MEAN_STD
from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint, run_config
from tests.helpers import runs

GOLDEN = runs.ROOT / "tests/golden/interop"
CLIP_MEAN, CLIP_STD = (pytest.approx(numbers, abs=1e-6) for numbers in MEAN_STD["clip"])


@pytest.fixture
def hugging_face(tmp_path):
    """Opens a copy of a Hugging Face folder with these files of JSON beside the weights; gives the preprocessing."""

    def opened(name="hf-clip", **files):
        folder = tmp_path / name
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(GOLDEN / name, folder)
        (folder / "preprocessor_config.json").unlink(missing_ok=True)
        for file, content in files.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
        return foreign_checkpoint.open_checkpoint(folder).preprocessing

    return opened


@pytest.fixture
def openclip(tmp_path):
    """Opens a copy of an OpenCLIP folder with this preprocess_cfg; gives the preprocessing."""

    def opened(cfg):
        shutil.copytree(GOLDEN / "openclip-quickgelu", tmp_path / "model", dirs_exist_ok=True)
        file = tmp_path / "model" / "open_clip_config.json"
        config = json.loads(file.read_text())
        file.write_text(
            json.dumps({"model_cfg": config["model_cfg"]} | ({} if cfg is None else {"preprocess_cfg": cfg}))
        )
        return foreign_checkpoint.open_checkpoint(tmp_path / "model").preprocessing

    return opened


def refused(message, opened, *args, **kwargs):
    with pytest.raises(UserError, match=message) as error:
        opened(*args, **kwargs)
    assert "\n" not in str(error.value) and "config.json: not a config of" not in str(error.value)


OURS = dict(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], resample=2)


def test_the_processors_file_is_read_and_goes_before_the_image_processors(hugging_face):
    nested = {"image_processor": OURS, "processor_class": "CLIPProcessor"}
    for files in ({}, {"preprocessor_config": {"image_mean": [0.9] * 3}}):
        result = hugging_face(processor_config=nested, **files)
        assert (result["mean"], result["std"], result["interpolation"]) == (
            [0.1, 0.2, 0.3],
            [0.4, 0.5, 0.6],
            "bilinear",
        )
    # One that does not hold the image processor's fields, as before transformers 5.
    result = hugging_face(processor_config={"processor_class": "CLIPProcessor"}, preprocessor_config=OURS)
    assert result["mean"] == [0.1, 0.2, 0.3]
    refused(
        "processor_config.json: resample=5 is neither",
        hugging_face,
        processor_config={"image_processor": {"resample": 5}},
    )


def test_what_a_file_leaves_out_is_as_the_class_it_names_has_it(hugging_face):
    result = hugging_face(preprocessor_config={"image_processor_type": "SiglipImageProcessorFast", "resample": 2})
    assert (result["mean"], result["resize"], result["interpolation"]) == ([0.5] * 3, "squash", "bilinear")
    result = hugging_face("hf-siglip", preprocessor_config={"feature_extractor_type": "CLIPFeatureExtractor"})
    assert (result["mean"], result["std"], result["resize"]) == (CLIP_MEAN, CLIP_STD, "crop")
    # Old files: one number for a size, and null for what is left out.
    old = {"size": 16, "crop_size": 16, "do_center_crop": True, "resample": 3, "image_mean": None}
    assert hugging_face(preprocessor_config=old)["mean"] == CLIP_MEAN


@pytest.mark.parametrize(
    "fields",
    [
        dict(feature_extractor_type="ViTFeatureExtractor"),
        dict(feature_extractor_type="ViltFeatureExtractor", size_divisor=8),
        dict(image_processor_type="BlipImageProcessor"),
        dict(feature_extractor_type="ChineseCLIPFeatureExtractor", do_center_crop=False),
    ],
)
def test_a_size_of_one_number_is_a_square_where_nothing_is_cut_out(fields, hugging_face):
    assert hugging_face(preprocessor_config=fields | {"size": 16})["resize"] == "squash"


SQUARE = {"height": 16, "width": 16}


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"do_normalize": False}, "do_normalize=False is not read; mmjax has True there"),
        ({"do_rescale": False}, "do_rescale=False"),
        ({"do_resize": False}, "do_resize=False"),
        ({"do_pad": True}, "do_pad=True"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor=0.0078.* mmjax has 1/255"),
        ({"rescale_factor": "small"}, "rescale_factor='small'"),
        ({"do_center_crop": False}, "ok"),
        (
            {"do_center_crop": False, "size": {"shortest_edge": 16}},
            "size={'shortest_edge': 16} without a crop .* keeps",
        ),
        ({"do_center_crop": False, "size": 16}, "size={'shortest_edge': 16} without a crop .* keeps"),
        ({"size": {"height": 16, "width": 24}, "do_center_crop": False}, "is not a square of whole pixels"),
        ({"size": {"shortest_edge": 16, "longest_edge": 32}}, "mmjax takes a shortest_edge, or a height and a width"),
        ({"size": {"shortest_edge": 16.5}}, "is not a square of whole pixels"),
        (
            {"size": SQUARE, "crop_size": {"height": 12, "width": 12}},
            "resizes to 16 x 16 and then crops 12 x 12 pixels",
        ),
        ({"size": {"shortest_edge": 18}, "crop_size": 16}, "resizes to 18 and then crops 16 x 16 pixels"),
        ({"size": {"shortest_edge": 24}, "crop_size": 24}, "makes images of 24 pixels, but the model takes 16"),
        ({"image_mean": [0.5, 0.5]}, r"image_mean=\[0.5, 0.5\]: wants three numbers, for red, green and blue"),
        ({"image_mean": 0.5}, "image_mean=0.5: wants three numbers"),
        ({"image_mean": ["a", "b", "c"]}, "wants three numbers"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "wants three numbers"),
        ({"image_std": [0.5, 0.5, 0.0]}, "image_std=.* wants three numbers greater than 0"),
        ({"resample": [2]}, r"resample=\[2\] is neither"),
        ({"image_processor_type": "DetrImageProcessor"}, "image_processor_type='DetrImageProcessor' is not read"),
        ({"do_color_jitter": True}, "do_color_jitter=True is not read; mmjax has no such setting"),
    ],
)
def test_what_changes_the_numbers_is_read_or_refused(fields, message, hugging_face):
    if message == "ok":  # nothing to cut off a picture that is squashed
        assert hugging_face(preprocessor_config=fields | {"size": SQUARE})["resize"] == "squash"
    else:
        refused(
            f"preprocessor_config.json: .*{message}|preprocessor_config.json: {message}",
            hugging_face,
            preprocessor_config=fields,
        )


def test_openclip_without_fields_prepares_images_as_its_own_clip(openclip):
    """Its defaults hold for every model, those with timm's tower too (open_clip.transform.PreprocessCfg)."""
    for cfg in (None, {}, {"size": [16, 16]}, {"mean": None, "mode": "RGB", "fill_color": 0}):
        result = openclip(cfg)
        assert (result["mean"], result["std"], result["resize"], result["interpolation"]) == (
            CLIP_MEAN,
            CLIP_STD,
            "crop",
            "bicubic",
        )


def test_pixels_from_0_to_1_have_a_name(openclip, tmp_path):
    """As MobileCLIP's."""
    openclip({"mean": [0, 0, 0], "std": [1, 1, 1]})
    checkpoint = foreign_checkpoint.open_checkpoint(tmp_path / "model")
    config = run_config.make_config(checkpoint)
    assert config.data.mean_std == "none"
    run_config.check_named(config, checkpoint)


def test_openclips_default_holds_for_timms_tower(tmp_path, monkeypatch):
    from mmjax.interop import preprocessing, timm_siglip

    assert preprocessing.from_openclip({}, 224, "x")["resize"] == "crop"
    # Such a folder, with the golden tower by a name that timm does not have.
    tower = dict(width=16, depth=2, heads=2, mlp_dim=24, activation="gelu_tanh", norm_eps=1e-6)
    monkeypatch.setattr(timm_siglip, "tower_settings", lambda name, path: tower | dict(patch_size=8, image_size=16))
    text = dict(context_length=7, vocab_size=40, width=16, heads=2, layers=2, mlp_ratio=1.5, no_causal_mask=True)
    text |= dict(proj_bias=True, pool_type="last", norm_kwargs=dict(eps=1e-6), act_kwargs=dict(approximate="tanh"))
    config = dict(embed_dim=16, init_logit_bias=-10, text_cfg=text, vision_cfg=dict(timm_model_name="golden"))
    shutil.copy(GOLDEN / "openclip-siglip" / "model.safetensors", tmp_path / "open_clip_model.safetensors")
    for extra, mean, resize in (({}, CLIP_MEAN, "crop"), ({"preprocess_cfg": {"mean": [0.5] * 3}}, [0.5] * 3, "crop")):
        (tmp_path / "open_clip_config.json").write_text(json.dumps(dict(model_cfg=config) | extra))
        result = foreign_checkpoint.open_checkpoint(tmp_path).preprocessing
        assert (result["mean"], result["resize"]) == (mean, resize)


@pytest.mark.parametrize(
    "cfg, message",
    [
        ({"size": 24}, "preprocess_cfg.size=24: the model takes 16; correct one of the two"),
        ({"size": [16, 24]}, r"preprocess_cfg.size=\[16, 24\]"),
        ({"mean": [0.5, 0.5]}, "preprocess_cfg.mean=.* wants three numbers"),
        ({"std": [1, 1, -1]}, "preprocess_cfg.std=.* wants three numbers greater than 0"),
        ({"mode": "L"}, "preprocess_cfg.mode='L'"),
        ({"interpolation": "random"}, "preprocess_cfg.interpolation='random'"),
        ({"resize_mode": "longest"}, "preprocess_cfg.resize_mode='longest'"),
        ({"gamma": 2.2}, "preprocess_cfg.gamma=2.2 is not read"),
        ([0.5], r"preprocess_cfg: \[0.5\] is no object of fields"),
    ],
)
def test_openclips_fields_are_read_or_refused(cfg, message, openclip):
    refused(f"open_clip_config.json: {message}", openclip, cfg)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_what_a_processor_of_transformers_saves_is_read(kind, hugging_face, tmp_path):
    """The file that `save_pretrained` writes for a processor and for an image processor alone, of random fields."""
    import transformers

    name = {"clip": "CLIPImageProcessor", "siglip": "SiglipImageProcessor"}[kind]
    cls = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    size = {"shortest_edge": 16} if kind == "clip" else SQUARE
    extra = {"crop_size": SQUARE} if kind == "clip" else {}
    processor = cls(size=size, **extra, **OURS)
    processor.save_pretrained(tmp_path / "alone")
    alone = json.loads((tmp_path / "alone" / "preprocessor_config.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    transformers.CLIPProcessor(processor, tokenizer).save_pretrained(tmp_path / "both")
    files = {"preprocessor_config": "preprocessor_config.json", "processor_config": "processor_config.json"}
    both = {
        stem: json.loads((tmp_path / "both" / file).read_text())
        for stem, file in files.items()
        if (tmp_path / "both" / file).is_file()
    }
    assert both
    for content in ({"preprocessor_config": alone}, both):
        result = hugging_face(f"hf-{kind}", **content)
        np.testing.assert_allclose(result["mean"], OURS["image_mean"])
        np.testing.assert_allclose(result["std"], OURS["image_std"])
        assert (result["interpolation"], result["resize"]) == ("bilinear", "crop" if kind == "clip" else "squash")
