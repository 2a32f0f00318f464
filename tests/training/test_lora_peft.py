"""LoRA against peft on a small CLIP of Hugging Face's: outputs, gradients of the adapters, merged weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.interop import foreign_checkpoint
from mmjax.models import two_tower
from mmjax.models.image_text import l2_normalize
from mmjax.parallel import partition
from mmjax.training import lora
from mmjax.training.config import LoraConfig

pytestmark = pytest.mark.full
HEADS, RANK, ALPHA = 2, 3, 7.0
# Ours by name there: the towers, the maps of a layer.
TOWERS = {"image": "vision_model", "text": "text_model"}
MAPS = {
    "attention/qkv/lora_q": "self_attn.q_proj",
    "attention/qkv/lora_k": "self_attn.k_proj",
    "attention/qkv/lora_v": "self_attn.v_proj",
    "attention/out/lora": "self_attn.out_proj",
    "mlp/fc1/lora": "mlp.fc1",
    "mlp/fc2/lora": "mlp.fc2",
}
EVERY = (".*attention/(q|k|v|out)/kernel", ".*mlp/fc[12]/kernel")
WHICH = {
    "all": (EVERY, "q_proj k_proj v_proj out_proj fc1 fc2"),
    "q, v": ((".*attention/(q|v)/kernel",), "q_proj v_proj"),
}


def make_theirs(targets):
    """A CLIPModel with random weights and adapters."""
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    layers = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=HEADS)
    text = dict(layers, vocab_size=40, max_position_embeddings=7, eos_token_id=39, bos_token_id=1, pad_token_id=0)
    vision = dict(layers, image_size=16, patch_size=8)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    model = transformers.CLIPModel(config).eval()
    settings = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets.split())
    model = peft.get_peft_model(model, settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(0.2 * torch.randn(weight.shape) + (1.0 if "norm" in name and "weight" in name else 0.0))
    return model.eval()


def to_ours(tensors, shapes):
    """Adapters by our path, of peft's tensors by name."""
    result = {}
    for adapter in shapes:
        for path, shape, letter in ((adapter.a, adapter.a_shape, "A"), (adapter.b, adapter.b_shape, "B")):
            tower, _, _, rest = path.split("/", 3)
            module = MAPS[rest[:-2]]
            names = [
                f"{TOWERS[tower]}.encoder.layers.{i}.{module}.lora_{letter}.default.weight" for i in range(shape[0])
            ]
            result[path] = jnp.stack([tensors[name].numpy().T.reshape(shape[1:]) for name in names])
    return result


def loss_of(image, text, scale):
    """CLIP's loss of embeddings, and the similarities."""
    logits = scale * l2_normalize(image) @ l2_normalize(text).T
    both = [jax.nn.log_softmax(logits, axis=axis) for axis in (0, 1)]
    return -sum(jnp.diagonal(x).mean() for x in both) / 2, logits


@pytest.mark.parametrize("which, scan", [("all", False), ("q, v", True)])
def test_outputs_gradients_and_merged_weights(which, scan, tmp_path):
    import torch

    patterns, targets = WHICH[which]
    theirs = make_theirs(targets)
    prefix = "base_model.model."
    plain = {
        name.removeprefix(prefix).replace(".base_layer", ""): x.detach().clone()
        for name, x in theirs.state_dict().items()
        if "lora_" not in name
    }
    base = theirs.get_base_model()
    type(base)(base.config).eval().save_pretrained(tmp_path / "base")
    from safetensors.torch import save_file

    save_file(plain, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    opened = foreign_checkpoint.open_checkpoint(tmp_path / "base")
    settings = dataclasses.replace(LoraConfig(), rank=RANK, alpha=ALPHA, which=patterns)
    adapters = lora.adapters(opened.shapes, settings)
    assert len(adapters) == 2 * len(targets.split())
    tensors = {name.removeprefix(prefix): x for name, x in theirs.named_parameters()}
    ours = to_ours({name: x.detach() for name, x in tensors.items()}, adapters)
    frozen = {path: jnp.asarray(x) for path, x in opened.read(lambda _, x: x).items()}
    fields = {name: x for name, x in opened.settings.items() if name not in ("init", "max_logit_scale")}
    for tower in TOWERS:
        fields[tower] = dict(fields[tower], scan=scan)
    model = two_tower.TwoTower(**fields)

    rng = np.random.default_rng(0)
    pixels, ids = rng.normal(size=(4, 16, 16, 3)).astype(np.float32), rng.integers(2, 39, (4, 7))
    ids[:, -1] = 39
    seen = jnp.asarray(pixels), jnp.asarray(ids)

    def loss(adapters, settings=settings):
        params = lora.scaled(partition.nested(frozen | adapters), settings)
        image, text = model.apply({"params": params}, *seen)
        return loss_of(image, text, jnp.exp(frozen["logit_scale"]))

    (value, logits), grads = jax.value_and_grad(loss, has_aux=True)(ours)
    output = theirs(
        input_ids=torch.tensor(ids), pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2)), return_loss=True
    )
    output.loss.backward()
    np.testing.assert_allclose(logits, output.logits_per_image.detach(), atol=1e-6 * abs(logits).max())
    assert abs(value - output.loss.item()) < 1e-6
    gradients = to_ours({name: x.grad for name, x in tensors.items() if x.grad is not None}, adapters)
    assert grads.keys() == gradients.keys()
    for path, gradient in gradients.items():
        assert abs(gradient).max() > 1e-4
        np.testing.assert_allclose(grads[path], gradient, atol=1e-6, rtol=1e-5, err_msg=path)

    merged = partition.flattened(lora.merged(partition.nested(frozen | ours), settings))
    assert merged.keys() == frozen.keys()
    theirs.merge_and_unload().save_pretrained(tmp_path / "merged")
    expected = foreign_checkpoint.open_checkpoint(tmp_path / "merged").read(lambda _, x: x)
    changed = 0
    for path, array in expected.items():
        np.testing.assert_allclose(merged[path], array, atol=1e-6, err_msg=path)
        changed += bool(np.any(array != np.asarray(frozen[path])))
    assert changed == len({adapter.kernel for adapter in adapters})
    image, text = model.apply({"params": partition.nested(merged)}, *seen)
    np.testing.assert_allclose(loss_of(image, text, jnp.exp(frozen["logit_scale"]))[0], value, atol=1e-6)
