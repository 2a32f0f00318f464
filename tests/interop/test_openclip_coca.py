"""OpenCLIP's CoCa: read, written, refused."""

import json

import numpy as np
import pytest

from campaigns import coca_models
from mmjax.errors import UserError
from mmjax.interop import export, foreign_checkpoint, openclip, openclip_coca, param_translation
from tests.helpers import torch_writers, writing_models

SMALL = dict(context_length=7, vocab_size=40, width=16, heads=2, layers=1)
CONFIG = dict(
    embed_dim=16,
    vision_cfg=dict(image_size=16, patch_size=8, width=24, head_width=8, layers=1, attentional_pool=True),
    text_cfg=SMALL | dict(embed_cls=True),
    multimodal_cfg=SMALL,
)
PREPARED = dict(size=16, resize="crop", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1])
def test_open_clips_own_models(seed, tmp_path):
    """The others are in `campaigns.coca_models`."""
    for what, difference in coca_models.differences(seed, tmp_path).items():
        assert difference <= coca_models.TOLERANCE, what


def test_recorded_weights(tmp_path):
    """Those of the golden file, of open_clip, are read as the tests' own translation has them."""
    weights, _ = writing_models.golden("coca")
    shapes = {name: array.shape for name, array in weights.items()}
    as_wide = "visual.attn_pool.attn.in_proj_weight" in shapes
    named = openclip_coca.names.table(is_as_wide=as_wide)
    ours = torch_writers.coca_params(weights)
    flat = {path: np.asarray(array).shape for path, array in _flat(ours)}
    rows = param_translation.select_rows(named, flat, "OpenCLIP")
    assert param_translation.their_shapes(rows, flat) == {
        name: shape for name, shape in shapes.items() if name in param_translation.their_shapes(rows, flat)
    }
    exported = dict(param_translation.export_params(dict(_flat(ours)), rows))
    assert set(exported) == set(weights)
    for name, array in exported.items():
        np.testing.assert_array_equal(array.reshape(-1), np.asarray(weights[name], np.float32).reshape(-1), name)


def _flat(tree, path=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{name}/")
        else:
            yield path + name, value


@pytest.mark.parametrize("pooled", [True, False])
def test_a_config_and_its_settings(pooled, tmp_path):
    width = 16 if pooled else 24
    config = json.loads(json.dumps(CONFIG))
    config["vision_cfg"]["attentional_pool"] = pooled
    config["text_cfg"]["width"] = config["multimodal_cfg"]["width"] = width
    settings = openclip.from_config(config, "file")
    assert (settings["kind"], settings["queries"]) == ("coca", 256 if pooled else 0)
    assert (settings["class_token_mask"], settings["text"]["pad_id"]) == ("shifted", 0)
    shapes = param_translation.param_shapes(settings)
    rng = np.random.default_rng(0)
    params = {path: rng.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}
    export.write(tmp_path, "openclip", settings=settings, preprocessing=PREPARED, params=params)
    opened = foreign_checkpoint.open_checkpoint(tmp_path)
    assert opened.settings == settings and opened.purpose == openclip_coca.PURPOSE
    for path, array in opened.read(lambda _, array: array).items():
        np.testing.assert_array_equal(array, params[path], path)
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(UserError, match="a CoCa of OpenCLIP without open_clip_config.json .* mmjax.create_model"):
        foreign_checkpoint.open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "part, changes, message",
    [
        ("text_cfg", dict(hf_model_name="roberta-base"), "a CoCa with a text tower of Hugging Face's"),
        ("text_cfg", dict(embed_cls=False), "without text_cfg.embed_cls"),
        ("text_cfg", dict(norm_kwargs={"eps": 1e-6}), "text_cfg.norm_kwargs with eps=1e-06"),
        ("vision_cfg", dict(attentional_pool="parallel"), "attentional_pool='parallel' is not read"),
        ("vision_cfg", dict(timm_model_name="vit_base_patch16_siglip_224"), "another tower than OpenCLIP's own"),
        ("multimodal_cfg", dict(width=32), "multimodal_cfg.width=32 .* as wide as the text"),
        ("multimodal_cfg", dict(ls_init_value=0.1), "multimodal_cfg.ls_init_value=0.1 is not read"),
    ],
)
def test_configs_that_are_not_read(part, changes, message):
    with pytest.raises(UserError, match=message):
        openclip.from_config(CONFIG | {part: CONFIG[part] | changes}, "file")


def test_settings_that_openclip_does_not_have():
    settings = openclip.from_config(CONFIG, "file")
    for changes, message in (
        (dict(class_token_mask="exact"), "model.class_token_mask='exact': OpenCLIP's CoCa has 'shifted'"),
        (dict(decoder=settings["decoder"] | dict(mlp_dim=32)), "model.decoder.mlp_dim=32"),
        (dict(text=settings["text"] | dict(token_types=2)), "model.text.token_types=2"),
    ):
        with pytest.raises(UserError, match=message):
            openclip_coca.to_config({**settings, **changes}, PREPARED)
