"""The prefix language model over frames of a video beside Hugging Face's GIT, with the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.prefix_lm import PrefixLM
from mmjax.parallel.partition import path_name
from tests.helpers.torch_writers import Weights, joined, randomised, stacked, weights_of

FRAMES, VOCAB, WIDTH, HEADS = 3, 40, 16, 2
IMAGE = dict(image_size=16, patch_size=8, width=24, depth=2, heads=HEADS, mlp_dim=32, activation="quick_gelu")
GIT = dict(
    video=dict(IMAGE, kind="frames", frames=FRAMES, norm_eps=1e-5, frame_pool="none", temporal="embedding"),
    text=dict(
        dict(vocab_size=VOCAB, context_length=9, width=WIDTH, depth=2, heads=HEADS, mlp_dim=28, activation="gelu"),
        **dict(norm="post", norm_eps=1e-12, embedding_norm=True, final_norm=False, head="linear", eos_id=2),
    ),
    connector="linear_norm",
)
LENGTHS = np.array([9, 4, 6])


def inputs():
    """Videos of which no two frames are alike, texts with 0 as padding, and which of their tokens are real."""
    rng = np.random.default_rng(0)
    mask = np.arange(9) < LENGTHS[:, None]
    text = np.where(mask, rng.integers(1, VOCAB, mask.shape), 0).astype(np.int32)
    return rng.standard_normal((3, FRAMES, 16, 16, 3)).astype(np.float32), text, mask


def hugging_face():
    """GIT of that library with random weights; its logits at the text, and the gradients of its captions' loss."""
    import torch
    import transformers

    layers = dict(num_hidden_layers=2, num_attention_heads=HEADS, attn_implementation="eager")
    vision = dict(layers, hidden_size=24, intermediate_size=32, image_size=16, patch_size=8)
    sizes = dict(vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=28, max_position_embeddings=9)
    ids = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config = transformers.GitConfig(vision_config=vision, num_image_with_embedding=FRAMES, **layers, **sizes, **ids)
    model = randomised(transformers.GitForCausalLM(config))
    videos, text, mask = inputs()
    out = model(
        pixel_values=torch.from_numpy(videos.transpose(0, 1, 4, 2, 3).copy()),
        input_ids=torch.from_numpy(text.astype(np.int64)),
        attention_mask=torch.from_numpy(mask.astype(np.int64)),
    )
    logits = out.logits[:, -text.shape[1] :]
    labels = torch.from_numpy(np.where(mask, text, -100).astype(np.int64))[:, 1:]
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), labels.reshape(-1))
    loss.backward()
    slopes = {name: x.grad.numpy() for name, x in model.named_parameters() if x.grad is not None}
    return weights_of(model), slopes, logits.detach().numpy(), float(loss.detach())


def to_params(arrays):
    """Arrays of GIT's names, weights or their gradients, as ours."""
    w = Weights(arrays, "git.")
    vision = w.below("image_encoder.vision_model.")

    def image_layer(w):
        return {
            "norm1": w.norm("layer_norm1"),
            "attention": {
                "qkv": joined(w.below("self_attn."), "q_proj", "k_proj", "v_proj"),
                "out": w.heads_out("self_attn.out_proj"),
            },
            "norm2": w.norm("layer_norm2"),
            "mlp": {"fc1": w.dense("mlp.fc1"), "fc2": w.dense("mlp.fc2")},
        }

    def text_layer(w):
        return {
            "attention": {
                "qkv": joined(w.below("attention.self."), "query", "key", "value"),
                "out": w.heads_out("attention.output.dense"),
            },
            "norm1": w.norm("attention.output.LayerNorm"),
            "mlp": {"fc1": w.dense("intermediate.dense"), "fc2": w.dense("output.dense")},
            "norm2": w.norm("output.LayerNorm"),
        }

    image = {
        "patch_embed": {"kernel": vision["embeddings.patch_embedding.weight"].transpose(2, 3, 1, 0)},
        "class_token": vision["embeddings.class_embedding"],
        "position_embedding": vision["embeddings.position_embedding.weight"],
        "norm_pre": vision.norm("pre_layrnorm"),
        "transformer": {"layers": stacked([image_layer(layer) for layer in vision.numbered("encoder.layers")])},
        "norm": vision.norm("post_layernorm"),
    }
    times = [w[f"img_temporal_embedding.{i}"].reshape(-1) for i in range(FRAMES)]
    projection = w.below("visual_projection.visual_projection.")
    text = {
        "token_embedding": w["embeddings.word_embeddings.weight"],
        "position_embedding": w["embeddings.position_embeddings.weight"],
        "norm_embed": w.norm("embeddings.LayerNorm"),
        "transformer": {"layers": stacked([text_layer(layer) for layer in w.numbered("encoder.layer")])},
        "head": Weights(arrays).dense("output"),
    }
    return {
        "video": {"image": image, "time_embedding": np.stack(times)},
        "connector": {"fc1": projection.dense("0"), "norm": projection.norm("1")},
        "text": text,
    }


@pytest.fixture(scope="module")
def both():
    """Logits, loss and gradients of either library, and a function of ours."""
    weights, slopes, logits, loss = hugging_face()
    model, (videos, text, mask) = PrefixLM(**GIT), map(jnp.asarray, inputs())

    def run(params, videos):
        bound = model.bind({"params": params})
        logits = bound.caption_logits(bound.encode_image(videos), text, mask)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits[:, :-1]), text[:, 1:, None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(mask[:, 1:], chosen, 0)) / mask[:, 1:].sum(), logits

    step = jax.jit(jax.value_and_grad(run, has_aux=True))
    params = to_params(weights)
    (our_loss, our_logits), gradients = step(params, videos)
    return (
        dict(params=params, step=step, videos=videos, mask=mask),
        (loss, logits, slopes),
        (our_loss, our_logits, gradients),
    )


@pytest.mark.full
def test_it_is_git_and_so_are_its_gradients(both):
    context, (loss, logits, slopes), (our_loss, our_logits, gradients) = both
    shapes = jax.eval_shape(PrefixLM(**GIT).init, jax.random.key(0), context["videos"], np.zeros((3, 9), np.int32))
    assert jax.tree.map(jnp.shape, shapes["params"]) == jax.tree.map(np.shape, context["params"])
    np.testing.assert_allclose(our_logits[context["mask"]], logits[context["mask"]], atol=1e-5)
    assert float(our_loss) == pytest.approx(loss, abs=1e-5)
    expected = to_params(slopes)
    # PyTorch gives the table's row of padding no gradient.
    gradients["text"]["token_embedding"] = gradients["text"]["token_embedding"].at[0].set(0)
    for (path, ours), theirs in zip(
        jax.tree_util.tree_leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
    ):
        scale = max(1.0, np.abs(theirs).max())
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=1e-5, err_msg=path_name(path))
        assert np.abs(theirs).max() > 1e-4 or path_name(path).endswith("attention/qkv/bias"), path_name(path)


@pytest.mark.full
def test_the_order_of_the_frames_counts_by_their_times_alone(both):
    context, _, (_, logits, _) = both
    swapped = context["videos"][:, ::-1]
    (_, other), _ = context["step"](context["params"], swapped)
    assert np.abs(other - logits).max() > 1e-3
    video = context["params"]["video"] | {"time_embedding": context["params"]["video"]["time_embedding"][::-1]}
    (_, same), _ = context["step"](context["params"] | {"video": video}, swapped)
    np.testing.assert_allclose(same, logits, atol=1e-5)
