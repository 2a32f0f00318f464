"""ALBEF's own files: read as PyTorch computes them, and what is refused, by name."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import mmjax
from campaigns import albef_models, family_models
from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint
from tests.helpers import torch_fusion

GOLDEN = Path(__file__).parents[1] / "golden" / "models" / "albef.npz"
HEADS = {"heads": 2}
# Names of the recorded model, which is put together of transformers' parts, and ALBEF's of the same.
_NAMES = (
    (r"vision_model\.embeddings\.class_embedding", "visual_encoder.cls_token"),
    (r"vision_model\.embeddings\.position_embedding", "visual_encoder.pos_embed"),
    (r"vision_model\.embeddings\.patch_embedding", "visual_encoder.patch_embed.proj"),
    (r"vision_model\.post_layernorm", "visual_encoder.norm"),
    (r"vision_model\.encoder\.layers\.(\d+)\.layer_norm", r"visual_encoder.blocks.\1.norm"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv", r"visual_encoder.blocks.\1.attn.qkv"),
    (r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection", r"visual_encoder.blocks.\1.attn.proj"),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp", r"visual_encoder.blocks.\1.mlp"),
    (r"text\.cls\.seq_relationship", "itm_head"),
    (r"text\.", "text_encoder."),
    (r"fusion\.layer\.(\d+)\.", lambda match: f"text_encoder.bert.encoder.layer.{int(match[1]) + 2}."),
    (r"vision_projection", "vision_proj"),
    (r"text_projection", "text_proj"),
)


def renamed(name):
    for pattern, new in _NAMES:
        name, changed = re.subn(f"^{pattern}", new, name)
        if changed:
            break
    return name


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN) as file:
        arrays = {name: np.asarray(file[name], np.float32) for name in file}
    expected = {name.removeprefix("expected/"): x for name, x in arrays.items() if name.startswith("expected/")}
    left_out = ("expected/", "classifier.", "text.bert.pooler.")
    weights = {renamed(name): x for name, x in arrays.items() if not name.startswith(left_out)}
    return weights | dict(temp=np.float32(0.05).reshape(())), expected


def write(folder, weights, prefix="model."):
    path = folder / "ALBEF.safetensors"
    save_file({prefix + name: np.ascontiguousarray(x) for name, x in weights.items()}, path)
    return path


def test_what_pytorch_computes_is_computed_here(recorded, tmp_path):
    weights, expected = recorded
    beside = dict(image_queue=np.zeros((4, 8), np.float32), queue_ptr=np.zeros(1, np.int64))
    beside |= {"text_encoder_m.bert.pooler": np.ones(3, np.float32), "visual_encoder_m.pos_embed": np.ones(2)}
    path = write(tmp_path, weights | beside)
    opened = family_models.open_folder(path, HEADS)
    images, text, mask, _ = torch_fusion.inputs()
    got = albef_models.ours(opened, family_models.Inputs(images, text, mask))
    want = {name: expected[name] for name in ("image", "text", "match")} | dict(scale=20.0)
    want["words"] = np.where(mask[..., None], expected["words"], 0)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, **family_models.CLOSE, err_msg=name)
    assert mmjax.load(path, **HEADS).can == ("encode_image", "encode_text", "zero_shot", "match")
    settings, config = opened.config.model, opened.config
    assert (settings.image.image_size, settings.text.depth, settings.fusion.depth) == (16, 2, 2)
    assert (config.data.mean_std, config.data.resize, config.data.context_length) == ("clip", "squash", 7)


def test_a_file_for_retrieval(recorded, tmp_path):
    """It has no head for words, and other names of BERT."""
    weights, _ = recorded
    words = "text_encoder.cls."
    weights = {name.replace(".bert.", "."): x for name, x in weights.items() if not name.startswith(words)}
    opened = foreign_checkpoint.open_checkpoint(write(tmp_path, weights, ""), HEADS)
    assert not opened.settings["mlm"] and opened.purpose.objectives == {"itc": 1.0, "itm": 1.0}


@pytest.mark.parametrize(
    "overrides, changes, message",
    [
        ({}, {}, r"shapes do not tell image.heads \(no published ALBEF has width 24\), text.heads"),
        ({"heads": 5}, {}, "image.heads=5 does not divide its width 24"),
        (HEADS, {"temp": np.float32(0)}, "temp is 0.0, and a temperature is greater than 0"),
        (HEADS, {"itm_head.weight": None}, "the parameter itm_head.weight is missing"),
        (HEADS, {"one.more": np.zeros(2)}, "the parameter one.more is unknown to this kind of model"),
        (HEADS, {"visual_encoder.pos_embed": np.zeros((1, 4, 24))}, "visual_encoder.pos_embed has 3 patches"),
        (HEADS, {"vision_proj.weight": None}, "repository without vision_proj.weight, such as one for questions"),
        (HEADS, {"text_encoder.bert.encoder.layer.0.crossattention.self.key.bias": np.zeros(2)}, "as BLIP's own files"),
    ],
)
def test_other_files_are_named(recorded, tmp_path, overrides, changes, message):
    weights, _ = recorded
    weights = {name: x for name, x in (weights | changes).items() if x is not None}
    with pytest.raises(UserError, match=message) as error:
        foreign_checkpoint.open_checkpoint(write(tmp_path, weights), overrides)
    assert "\n" not in str(error.value)


@pytest.mark.full
@pytest.mark.parametrize("seed", [1, 2])
def test_files_of_pytorch(seed, tmp_path):
    """The others are in `campaigns.albef_models`."""
    albef_models.check(seed, tmp_path / "ALBEF.pth")
