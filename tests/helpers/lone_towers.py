"""Lone towers of transformers with random weights, and the same read, run and written by mmjax."""

import jax.numpy as jnp
import numpy as np

from campaigns.hf_families import BATCH, Case, layers


def _sizes(rng):
    patch = int(rng.choice([3, 4]))
    settings = layers(rng) | dict(image_size=patch * int(rng.integers(1, 4)), patch_size=patch)
    return settings | dict(num_labels=int(rng.integers(2, 9)))


def _vit(architecture):
    def make(rng):
        import transformers

        config = transformers.ViTConfig(**_sizes(rng))
        return getattr(transformers, architecture)(config), dict(side=config.image_size, vocabulary=8, length=4)

    return make


def _dinov2(architecture):
    def make(rng):
        import transformers

        settings = _sizes(rng) | dict(mlp_ratio=int(rng.integers(1, 5)), use_swiglu_ffn=bool(rng.integers(2)))
        settings["layerscale_value"] = float(rng.choice([1.0, 1e-5]))
        del settings["intermediate_size"]
        if "Registers" in architecture:
            settings["num_register_tokens"] = int(rng.integers(1, 6))
        cls = getattr(transformers, architecture)
        return cls(cls.config_class(**settings)), dict(side=settings["image_size"], vocabulary=8, length=4)

    return make


def _clip(architecture):
    def make(rng):
        import transformers

        cls = getattr(transformers, architecture)
        settings = _sizes(rng) | (dict(projection_dim=int(rng.integers(2, 20))) if "CLIP" in architecture else {})
        return cls(cls.config_class(**settings)), dict(side=settings["image_size"], vocabulary=8, length=4)

    return make


def _theirs(model, batch):
    out = model(pixel_values=batch.tensors()[0])
    if hasattr(out, "image_embeds"):
        return dict(features=out.image_embeds.numpy())
    if type(model).__name__ in ("CLIPVisionModel", "SiglipVisionModel"):
        return dict(features=out.pooler_output.numpy())
    if hasattr(out, "logits"):
        return dict(logits=out.logits.numpy())
    return dict(tokens=out.last_hidden_state.numpy(), features=out.last_hidden_state[:, 0].numpy())


def _ours(opened, batch):
    module, present = opened.module, jnp.ones((BATCH, 1), bool)
    result = np.asarray(module({"image": batch.images}, present))
    if opened.config.model.classes:
        return dict(logits=result)
    if opened.config.model.encoders["image"].pre_norm or not opened.config.model.encoders["image"].class_token:
        return dict(features=result)
    _, state = module.apply(
        {"params": module.variables["params"]}, {"image": batch.images}, present, capture_intermediates=True
    )
    tokens = state["intermediates"]["encoder_image"]["__call__"][0].tokens
    return dict(tokens=np.asarray(tokens), features=result)


def _case(make, architecture):
    headed = architecture.endswith("Classification")
    can = ("encode_image", "classify") if headed else ("encode_image",)
    return Case(architecture, make(architecture), _theirs, _ours, can)


_MAKERS = {"ViT": _vit, "Din": _dinov2, "CLI": _clip, "Sig": _clip}
CASES = {
    name: _case(_MAKERS[name[:3]], name)
    for name in (
        *("CLIPVisionModel", "CLIPVisionModelWithProjection", "SiglipVisionModel"),
        *("ViTForImageClassification", "ViTModel", "Dinov2ForImageClassification", "Dinov2Model"),
        *("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersModel"),
    )
}
