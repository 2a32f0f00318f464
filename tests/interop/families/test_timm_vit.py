"""timm's files without timm: classes, pictures, and what is refused, by name."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import mmjax
from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint, param_translation
from mmjax.interop.families import table, timm_vit
from mmjax.interop.families.family import read_settings

ARGS = dict(img_size=[8, 8], patch_size=4, embed_dim=12, depth=1, num_heads=2)
WEIGHTS = dict(
    **dict(input_size=[3, 224, 224], interpolation="bilinear", crop_pct=1.0, crop_mode="center"),
    **dict(mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5], num_classes=1000),
)
CONFIG = dict(architecture="vit_tiny_patch16_224", num_classes=2, global_pool="token", model_args=ARGS)


def write(folder, **changes):
    """A folder as timm writes it, its config changed after its weights were written."""
    config = CONFIG | dict(pretrained_cfg=WEIGHTS)
    settings = read_settings(timm_vit.FAMILY, config, folder)
    shapes = param_translation.param_shapes(settings)
    theirs = param_translation.their_shapes(
        param_translation.select_rows(timm_vit.FAMILY.table(settings), shapes, ""), shapes
    )
    rng = np.random.default_rng(0)
    save_file(
        {name: rng.standard_normal(shape).astype(np.float32) for name, shape in theirs.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_classes_have_their_names(tmp_path):
    assert mmjax.load(write(tmp_path)).class_names == ("LABEL_0", "LABEL_1")
    names = dict(label_names=["n01", "n02"], label_descriptions={"n01": "a cat", "n02": "a dog"})
    model = mmjax.load(write(tmp_path, **names))
    assert model.can == ("encode_image", "classify")
    assert model.class_names == ("a cat", "a dog")
    assert mmjax.load(write(tmp_path, label_names={"0": "x", "1": "y"})).class_names == ("x", "y")


def test_old_files_have_all_fields_side_by_side(tmp_path):
    write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(WEIGHTS | CONFIG))
    opened = foreign_checkpoint.open_checkpoint(tmp_path / "model.safetensors")
    assert opened.preprocessing["interpolation"] == "bilinear"


def test_pictures_that_are_cut_smaller_there_are_said_so(tmp_path):
    opened = foreign_checkpoint.open_checkpoint(write(tmp_path, pretrained_cfg=WEIGHTS | dict(crop_pct=0.9)))
    (note,) = opened.notes
    assert (
        note == "images: the short side becomes 8 pixels; with crop_pct=0.9 timm resizes to 8 and cuts out the middle"
    )
    assert (opened.preprocessing["resize"], opened.preprocessing["image_rule"]) == ("crop", "open_clip")
    assert foreign_checkpoint.open_checkpoint(write(tmp_path)).notes == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            dict(architecture="vit_relpos_base_patch16_224"),
            "architecture='vit_relpos_base_patch16_224' is not read; of",
        ),
        (dict(architecture="swin_base"), "of timm's lone towers mmjax has vit_"),
        (dict(global_pool="avg"), "global_pool='avg' is not read; mmjax has 'token' there"),
        (dict(model_args=ARGS | dict(qk_norm=True)), "model_args.qk_norm='True' is not read; mmjax reads depth, embed"),
        (dict(model_args=ARGS | dict(depth=10**9)), "model_args.depth=1000000000: wants a whole number of 1 to 1000"),
        (dict(model_args=ARGS | dict(img_size=[8, 12])), r"model_args.img_size=\[8, 12\] is not one number"),
        (dict(model_args=ARGS | dict(num_heads=5)), "the image part's 5 attention heads do not divide its width of 12"),
        (dict(model_args=ARGS | dict(mlp_ratio="x")), "model_args.mlp_ratio=x: wants a number above 0"),
        (dict(model_args=3), "model_args='3': wants a group of fields"),
        (dict(num_classes=-1), "num_classes=-1: wants a whole number of 0 to"),
        (dict(num_classes=3), r"head.weight has shape \[2, 12\], but its config makes it \[3, 12\]"),
        (dict(label_names=["one"]), r"label_names=\['one'\]: wants 2 different names of classes"),
        (dict(pretrained_cfg=WEIGHTS | dict(crop_mode="border")), "crop_mode='border' is not center or squash"),
        (dict(pretrained_cfg=WEIGHTS | dict(crop_pct=2)), "pretrained_cfg.crop_pct=2 wants a number of 0 to 1"),
        (dict(pretrained_cfg=WEIGHTS | dict(interpolation="random")), "pretrained_cfg.interpolation='random' is not"),
    ],
)
def test_what_is_refused(tmp_path, fields, message):
    with pytest.raises(UserError, match=message) as error:
        foreign_checkpoint.open_checkpoint(write(tmp_path, **fields))
    assert "\n" not in str(error.value)


def test_what_has_no_class_of_transformers_is_not_written(tmp_path):
    settings = foreign_checkpoint.open_checkpoint(write(tmp_path)).settings
    assert table.of_settings(settings).architecture == "ViTForImageClassification"
    image = settings["encoders"]["image"] | dict(pre_norm=True, patch_bias=False)
    with pytest.raises(UserError, match="Hugging Face's CLIP image tower .* has 0 there"):
        table.of_settings(settings | dict(encoders=dict(image=image)))
