"""Weights of Hugging Face's CLIPModel and SiglipModel as mmjax parameters, by name.

Everything here is linear (transposes, reshapes, stacking), so that gradients are translated the same way.
"""

import numpy as np


def from_hugging_face(weights, heads):
    """Translates {name: numpy array} of a CLIPModel or SiglipModel whose towers have `heads` attention heads."""
    weights = dict(weights)
    take = weights.pop
    params = {
        "image": {
            "patch_embed": {"kernel": take("vision_model.embeddings.patch_embedding.weight").transpose(2, 3, 1, 0)},
            "position_embedding": take("vision_model.embeddings.position_embedding.weight"),
            "transformer": {"layers": _layers(weights, "vision_model.encoder.layers.", heads)},
            "norm": _norm(weights, "vision_model.post_layernorm."),
        },
        "text": {
            "token_embedding": take("text_model.embeddings.token_embedding.weight"),
            "position_embedding": take("text_model.embeddings.position_embedding.weight"),
            "transformer": {"layers": _layers(weights, "text_model.encoder.layers.", heads)},
            "norm": _norm(weights, "text_model.final_layer_norm."),
        },
        "logit_scale": take("logit_scale").reshape(()),
    }
    if "visual_projection.weight" in weights:  # CLIP
        params["image"]["class_token"] = take("vision_model.embeddings.class_embedding")
        params["image"]["norm_pre"] = _norm(weights, "vision_model.pre_layrnorm.")
        params["image_head"] = {"projection": {"kernel": take("visual_projection.weight").T}}
        params["text_head"] = {"projection": {"kernel": take("text_projection.weight").T}}
    else:  # SigLIP
        params["image"]["patch_embed"]["bias"] = take("vision_model.embeddings.patch_embedding.bias")
        params["image_head"] = {"pool": _attention_pool(weights, heads)}
        params["text_head"] = {"projection": _dense(weights, "text_model.head.")}
        params["logit_bias"] = take("logit_bias").reshape(())
    assert not weights, f"not translated: {sorted(weights)}"
    return params


def _dense(weights, name):
    return {"kernel": weights.pop(name + "weight").T, "bias": weights.pop(name + "bias")}


def _norm(weights, name):
    return {"scale": weights.pop(name + "weight"), "bias": weights.pop(name + "bias")}


def _layers(weights, name, heads):
    count = 1 + max(int(key[len(name) :].split(".")[0]) for key in weights if key.startswith(name))
    layers = [_layer(weights, f"{name}{i}.", heads) for i in range(count)]
    return _stacked(layers)


def _stacked(trees):
    if isinstance(trees[0], dict):
        return {key: _stacked([tree[key] for tree in trees]) for key in trees[0]}
    return np.stack(trees)


def _layer(weights, name, heads):
    q, k, v = (_dense(weights, f"{name}self_attn.{letter}_proj.") for letter in "qkv")
    width = q["kernel"].shape[0]
    split = (3, heads, width // heads)
    return {
        "norm1": _norm(weights, name + "layer_norm1."),
        "attention": {
            "qkv": {
                "kernel": np.stack([q["kernel"], k["kernel"], v["kernel"]], axis=1).reshape(width, *split),
                "bias": np.stack([q["bias"], k["bias"], v["bias"]]).reshape(split),
            },
            "out": _heads_out(_dense(weights, name + "self_attn.out_proj."), heads),
        },
        "norm2": _norm(weights, name + "layer_norm2."),
        "mlp": {"fc1": _dense(weights, name + "mlp.fc1."), "fc2": _dense(weights, name + "mlp.fc2.")},
    }


def _heads_out(dense, heads):
    width = dense["kernel"].shape[0]
    return {"kernel": dense["kernel"].reshape(heads, width // heads, width), "bias": dense["bias"]}


def _attention_pool(weights, heads):
    name = "vision_model.head."
    kernel, bias = weights.pop(name + "attention.in_proj_weight").T, weights.pop(name + "attention.in_proj_bias")
    width = kernel.shape[0]
    split = (heads, width // heads)
    kernel, bias = kernel.reshape(width, 3, *split), bias.reshape(3, *split)
    return {
        "probe": weights.pop(name + "probe"),
        "attention": {
            "q": {"kernel": kernel[:, 0], "bias": bias[0]},
            "kv": {"kernel": kernel[:, 1:], "bias": bias[1:]},
            "out": _heads_out(_dense(weights, name + "attention.out_proj."), heads),
        },
        "norm": _norm(weights, name + "layernorm."),
        "mlp": {"fc1": _dense(weights, name + "mlp.fc1."), "fc2": _dense(weights, name + "mlp.fc2.")},
    }
