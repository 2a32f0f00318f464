"""timm's vision transformers of random sizes and numbers, saved as timm saves them, and the same read by mmjax."""

import jax.numpy as jnp
import numpy as np

import mmjax
from campaigns.family_models import BATCH, CLOSE, inputs, open_folder, randomised
from mmjax.inference import convert

# By case: timm's name, whether it has a classifier, and the class of transformers that it is written as.
CASES = {
    "plain": ("vit_tiny_patch16_224", False, "ViTModel"),
    "with a classifier": ("vit_base_patch32_384", True, "ViTForImageClassification"),
    "clip": ("vit_base_patch16_clip_224", False, "CLIPVisionModel"),
    "quick clip with a classifier": ("vit_base_patch32_clip_quickgelu_224", True, ""),
    "dinov2": ("vit_small_patch14_dinov2", False, "Dinov2Model"),
    "dinov2 with registers": ("vit_base_patch14_reg4_dinov2", False, "Dinov2WithRegistersModel"),
    "dinov2 with registers and a classifier": ("vit_small_patch14_reg4_dinov2", True, ""),
    "giant dinov2": ("vit_giant_patch14_dinov2", False, ""),
}


def make(case, rng, seed):
    """A model of timm's, and the arguments that it is made with."""
    import timm

    name, headed, _ = CASES[case]
    heads, patch = int(rng.choice([1, 2, 3])), int(rng.choice([3, 4]))
    args = dict(img_size=patch * int(rng.integers(1, 5)), patch_size=patch, num_heads=heads)
    args |= dict(embed_dim=heads * int(rng.choice([4, 8])), depth=int(rng.integers(1, 4)))
    if "giant" not in name:
        args["mlp_ratio"] = int(rng.integers(1, 5))
    if headed and rng.integers(2):
        args["init_values"] = 0.1
    model = timm.create_model(name, num_classes=int(rng.integers(2, 9)) if headed else 0, **args)
    return randomised(model, seed), args


def save(model, args, folder, **changes):
    """Writes a model as timm does."""
    from timm.models import _hub

    model.pretrained_cfg |= changes
    _hub.save_for_hf(model, str(folder), model_args=args, safe_serialization="both")


def check(case, seed, folder):
    """A random model is read and computes the same, and so does what it is written as."""
    import torch
    import transformers

    name, headed, architecture = CASES[case]
    rng = np.random.default_rng(seed)
    model, args = make(case, rng, seed)
    save(model, args, folder / "theirs")
    if seed % 2:
        (folder / "theirs" / "model.safetensors").unlink()
    opened = open_folder(folder / "theirs")
    assert mmjax.load(folder / "theirs").can == (("encode_image", "classify") if headed else ("encode_image",))
    batch = inputs(rng, args["img_size"], 8, 4)
    pixels, module = batch.tensors()[0], opened.module
    with torch.no_grad():
        features = model.forward_features(pixels)
        result = model.forward_head(features).numpy()
    inner = {"image": jnp.asarray(batch.images)}, jnp.ones((BATCH, 1), bool)
    got, state = module.apply({"params": module.variables["params"]}, *inner, capture_intermediates=True)
    tokens = state["intermediates"]["encoder_image"]["__call__"][0].tokens
    np.testing.assert_allclose(tokens, features.numpy(), **CLOSE, err_msg=name)
    np.testing.assert_allclose(got, result, **CLOSE, err_msg=name)
    if not architecture or (headed and "init_values" in args):
        return
    convert.convert(folder / "theirs", folder / "back", to="hf")
    cls = getattr(transformers, architecture)
    back, info = cls.from_pretrained(folder / "back", output_loading_info=True)
    assert not any(info.values()), info
    with torch.no_grad():
        out = back.eval()(pixel_values=pixels)
    if architecture == "CLIPVisionModel":
        again = out.pooler_output
    else:
        again = out.logits if headed else out.last_hidden_state[:, 0]
    np.testing.assert_allclose(again.numpy(), result, **CLOSE, err_msg=architecture)
