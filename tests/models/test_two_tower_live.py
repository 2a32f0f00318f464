"""Embeddings, logits, losses and gradients of PyTorch's CLIP and SigLIP (transformers) with the same random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.interop import huggingface, param_translation
from mmjax.interop.tensor_files import Tensors
from mmjax.models.two_tower import TwoTower
from mmjax.models.variants.two_tower import variant
from mmjax.objectives.contrastive import sigmoid_loss, softmax_loss
from mmjax.parallel import partition
from mmjax.parallel.partition import path_name
from tests.helpers.torch_weights import randomise

pytestmark = pytest.mark.full
WIDTH, HIDDEN, DEPTH, HEADS, EMBED = 32, 48, 3, 4, 16
TOWER = dict(hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=DEPTH, num_attention_heads=HEADS)
VOCAB, CONTEXT, SIDE, PATCH, EOS = 60, 10, 24, 8, 59


def torch_model(kind, activation):
    import transformers

    text = TOWER | dict(vocab_size=VOCAB, max_position_embeddings=CONTEXT, hidden_act=activation)
    text |= dict(bos_token_id=EOS - 1, eos_token_id=EOS, pad_token_id=0)
    vision = TOWER | dict(image_size=SIDE, patch_size=PATCH, hidden_act=activation)
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=EMBED)
        model = transformers.CLIPModel(config)
    else:
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
    return randomise(model, 0)


def our_model(kind, activation):
    settings = variant("tiny" if kind == "clip" else "tiny-siglip")
    settings.pop("max_logit_scale")
    settings["embed_dim"] = EMBED if kind == "clip" else WIDTH
    shared = dict(width=WIDTH, depth=DEPTH, heads=HEADS, mlp_dim=HIDDEN, activation=activation)
    settings["image"] |= shared | dict(image_size=SIDE, patch_size=PATCH)
    settings["text"] |= shared | dict(vocab_size=VOCAB, context_length=CONTEXT, eos_id=EOS if kind == "clip" else 1)
    return TwoTower(**settings)


def inputs(batch=6):
    rng = np.random.default_rng(0)
    text = rng.integers(2, EOS - 1, (batch, CONTEXT))
    text[np.arange(batch), rng.integers(2, CONTEXT, batch)] = EOS
    return rng.standard_normal((batch, SIDE, SIDE, 3)).astype(np.float32), text.astype(np.int32)


def from_hugging_face(arrays, model):
    """Translates {name: numpy array} to our parameters; all of it is linear, so gradients are translated alike."""
    kind = "siglip" if "logit_bias" in arrays else "clip"
    inputs = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.float32), jax.ShapeDtypeStruct((1, CONTEXT), np.int32)
    tree = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    shapes = {name: leaf.shape for name, leaf in partition.flattened(tree).items()}
    tensors = Tensors(kind, {name: x.shape for name, x in arrays.items()}, arrays.__getitem__)
    rows = param_translation.select_rows(huggingface.table(kind), shapes, kind)
    param_translation.check_tensors(tensors, rows, shapes)
    return partition.nested(param_translation.read_params(tensors, rows, shapes, lambda _, array: array))


def flat(tree):
    return {path_name(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize(
    "kind, activation, theirs",
    [("clip", "quick_gelu", "quick_gelu"), ("clip", "gelu", "gelu"), ("siglip", "gelu_tanh", "gelu_pytorch_tanh")],
)
def test_parity(kind, activation, theirs):
    import torch

    reference, model = torch_model(kind, theirs), our_model(kind, activation)
    images, text = inputs()
    out = reference(
        input_ids=torch.from_numpy(text).long(),
        pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
        return_loss=True,
    )
    out.loss.backward()
    weights = {name: weight.detach().numpy() for name, weight in reference.named_parameters()}
    gradients = {name: weight.grad.numpy() for name, weight in reference.named_parameters()}

    params = from_hugging_face(weights, model)

    @jax.jit
    def run(params, images, text):
        image, words = model.apply({"params": params}, images, text)
        scale = jnp.exp(params["logit_scale"])
        bias = params.get("logit_bias", 0.0)
        logits = scale * jnp.einsum("iE,jE->ij", image, words, precision="highest") + bias
        loss = softmax_loss(image, words, scale) if kind == "clip" else sigmoid_loss(image, words, scale, bias)
        return loss[0], (image, words, logits)

    (loss, (image, words, logits)), ours = jax.value_and_grad(run, has_aux=True)(params, images, text)
    np.testing.assert_allclose(image, out.image_embeds.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(words, out.text_embeds.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(logits, out.logits_per_image.detach().numpy(), atol=1e-5)
    assert float(loss) == pytest.approx(out.loss.item(), rel=1e-5)
    expected = flat(from_hugging_face(gradients, model))
    scale = max(np.linalg.norm(x) for x in expected.values())
    for path, gradient in flat(ours).items():
        assert np.linalg.norm(gradient - expected[path]) < 2e-5 * max(np.linalg.norm(expected[path]), 0.1 * scale), path


def test_the_test_sees_a_wrong_activation():
    """The tolerance is tight enough to tell quick_gelu from gelu."""
    import torch

    images, text = inputs()
    reference = torch_model("clip", "quick_gelu")
    out = reference(
        input_ids=torch.from_numpy(text).long(), pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    )
    weights = {name: weight.detach().numpy() for name, weight in reference.named_parameters()}
    model = our_model("clip", "gelu")
    image, _ = jax.jit(model.apply)({"params": from_hugging_face(weights, model)}, images, text)
    assert abs(image - out.image_embeds.detach().numpy()).max() > 1e-3
