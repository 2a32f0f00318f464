"""Chinese-CLIP, MetaCLIP 2 and the towers of OWL-ViT, of transformers at random: loaded, written back, loaded there."""

import numpy as np
import pytest

import mmjax
from mmjax.errors import UserError
from mmjax.inference import checkpoint_source, convert
from tests.helpers import campaign
from tests.helpers.torch_weights import randomise

pytestmark = pytest.mark.full
BATCH, SEEDS = 4, list(range(12))


def draw(kind, seed):
    """A model with random weights, images [B, 3, H, W] and ids of several lengths."""
    import transformers

    rng = np.random.default_rng(seed)
    tower = lambda: dict(
        hidden_size=8 * int(rng.integers(1, 3)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=int(rng.choice([1, 2, 4])),
        intermediate_size=int(rng.integers(5, 40)),
        hidden_act=str(rng.choice(["gelu", "quick_gelu", "relu"])),
        layer_norm_eps=float(rng.choice([1e-12, 1e-5, 1e-3])),
    )
    context, vocab_size = int(rng.integers(4, 12)), int(rng.integers(20, 90))
    text = tower() | dict(vocab_size=vocab_size, max_position_embeddings=context)
    vision = tower() | dict(image_size=16, patch_size=int(rng.choice([4, 8])))
    parts = dict(vision_config=vision, projection_dim=int(rng.integers(4, 24)))
    pad = 0 if kind == "chinese" else 1
    if kind == "chinese":
        text |= dict(type_vocab_size=int(rng.integers(1, 3)))
        model = transformers.ChineseCLIPModel(transformers.ChineseCLIPConfig(text_config=text, **parts))
    else:
        text |= dict(eos_token_id=2, bos_token_id=0, pad_token_id=pad)
        model = transformers.MetaClip2Model(transformers.MetaClip2Config(text_config=text, **parts))
    images = rng.standard_normal((BATCH, 3, 16, 16)).astype(np.float32)
    ids = rng.integers(3, vocab_size, (BATCH, context))
    for row, end in enumerate(rng.integers(1, context, BATCH)):
        ids[row, end], ids[row, end + 1 :] = 2, pad
    return randomise(model, seed), images, ids, pad


def run(model, images, ids, pad):
    import torch

    arguments = dict(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(ids != pad).long())
    with torch.no_grad():
        out = model(**arguments, pixel_values=torch.from_numpy(images))
    return out.image_embeds.numpy(), out.text_embeds.numpy()


@pytest.mark.parametrize("seed", campaign.some(SEEDS, SEEDS[:1]))
@pytest.mark.parametrize("kind", ["chinese", "metaclip"])
def test_random_configurations(kind, seed, tmp_path):
    model, images, ids, pad = draw(kind, seed)
    wanted = run(model, images, ids, pad)
    model.save_pretrained(tmp_path / "theirs")
    loaded = mmjax.load(tmp_path / "theirs")
    results = loaded.encode_image(np.ascontiguousarray(images.transpose(0, 2, 3, 1))), loaded.encode_text(ids)
    for result, want in zip(results, wanted, strict=True):
        np.testing.assert_allclose(result, want, atol=1e-5)
    (tmp_path / "ours").mkdir()
    convert.write_files(checkpoint_source.open_source(tmp_path / "theirs"), tmp_path / "ours", "hf")
    again, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    for result, want in zip(run(again.eval(), images, ids, pad), wanted, strict=True):
        np.testing.assert_allclose(result, want, atol=1e-6)


def test_what_is_not_read(tmp_path):
    model, *_ = draw("chinese", 0)
    model.config.text_config.hidden_act = "mish"
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="hidden_act='mish' is not known"):
        mmjax.load(tmp_path)


@pytest.mark.parametrize("seed", campaign.some(SEEDS, SEEDS[:1]))
@pytest.mark.parametrize("architecture", ["OwlViTModel", "OwlViTForObjectDetection"])
def test_the_towers_of_owlvit(architecture, seed, tmp_path):
    """They embed as the library's do, and are written as a CLIPModel that does."""
    import torch
    import transformers

    rng = np.random.default_rng(seed)
    tower = lambda: dict(
        hidden_size=8 * int(rng.integers(1, 3)),
        num_hidden_layers=int(rng.integers(1, 4)),
        num_attention_heads=int(rng.choice([1, 2, 4])),
        intermediate_size=int(rng.integers(5, 40)),
        hidden_act=str(rng.choice(["gelu", "quick_gelu", "relu"])),
    )
    text = tower() | dict(vocab_size=60, max_position_embeddings=9)
    config = transformers.OwlViTConfig(
        text_config=text, vision_config=tower() | dict(image_size=16, patch_size=8), projection_dim=text["hidden_size"]
    )
    model = getattr(transformers, architecture)(config)
    towers = randomise(model.owlvit if hasattr(model, "owlvit") else model, seed)
    images = rng.standard_normal((BATCH, 3, 16, 16)).astype(np.float32)
    ids = rng.integers(3, 59, (BATCH, 9))
    for row, end in enumerate(rng.integers(1, 9, BATCH)):
        ids[row, end], ids[row, end + 1 :] = 59, 0
    wanted = run(towers, images, ids, 0)
    model.save_pretrained(tmp_path / "theirs")
    loaded = mmjax.load(tmp_path / "theirs")
    results = loaded.encode_image(np.ascontiguousarray(images.transpose(0, 2, 3, 1))), loaded.encode_text(ids)
    for result, want in zip(results, wanted, strict=True):
        np.testing.assert_allclose(result, want, atol=1e-5)
    (tmp_path / "ours").mkdir()
    convert.write_files(checkpoint_source.open_source(tmp_path / "theirs"), tmp_path / "ours", "hf")
    again, info = transformers.CLIPModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        for result, want in zip(run(again.eval(), images, ids, 0), wanted, strict=True):
            np.testing.assert_allclose(result, want, atol=1e-5)
