"""Each objective on eight devices has the value and the gradients that it has on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.objectives import captioning, classification, contrastive, masked_modelling, matching, token_loss, triplet
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import sharded_gather
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh

BATCH, LENGTH, WIDTH, VOCAB = 16, 6, 8, 20
FULL = pytest.mark.full


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def batch_of(seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: rng.standard_normal((BATCH, *shape)).astype(np.float32)
    lengths = rng.integers(0, LENGTH + 1, BATCH)
    return {
        "image": normal(WIDTH),
        "queries": normal(3, WIDTH),
        "text": normal(WIDTH),
        "image_tokens": normal(5, WIDTH),
        "text_tokens": normal(LENGTH, WIDTH),
        "logits": 3 * normal(LENGTH, VOCAB),
        "classes": 3 * normal(VOCAB),
        "patches": normal(4, 12),
        "pixels": normal(4, 4, 3),
    }, {
        "id": np.stack([np.arange(BATCH) % 7, np.zeros(BATCH)], 1).astype(np.uint32),
        "ids": rng.integers(3, VOCAB, (BATCH, LENGTH)).astype(np.int32),
        "mask": np.arange(LENGTH) < lengths[:, None],
        "label": rng.integers(0, VOCAB, BATCH).astype(np.int32),
        "scores": rng.choice([0.0, 0.3, 0.6, 1.0], (BATCH, VOCAB)).astype(np.float32),
        "keys": jax.random.key_data(jax.random.split(jax.random.key(seed), BATCH)),
    }


def softmax(x, batch, mesh, **options):
    image, text = unit(x[options.pop("image", "image")]), unit(x["text"])
    return contrastive.softmax_loss(image, text, jnp.float32(20.0), batch["id"], mesh=mesh, **options)


def triplets(x, batch, mesh, negatives):
    return triplet.triplet_loss(unit(x["image"]), unit(x["text"]), batch["id"], mesh=mesh, negatives=negatives)


def caption(x, batch, mesh):
    return token_loss.mean(captioning.caption_loss(x["logits"], batch["ids"], batch["mask"], 0.1))


def mlm(x, batch, mesh):
    inputs, chosen = masked_modelling.mask_tokens(
        batch["ids"],
        batch["mask"],
        jax.random.wrap_key_data(batch["keys"]),
        vocab_size=VOCAB,
        mask_id=2,
        special_ids=(),
    )
    logits = x["logits"] + jnp.sin(inputs)[..., None] * x["classes"][:, None]
    return token_loss.mean(masked_modelling.mlm_loss(logits, batch["ids"], chosen))


def patches(x, batch, mesh):
    mask = masked_modelling.mask_patches(jax.random.wrap_key_data(batch["keys"]), 4, 0.75)
    return token_loss.mean(masked_modelling.masked_patch_loss(x["patches"], x["pixels"], mask))


def classes(x, batch, mesh):
    return token_loss.mean(classification.classification_loss(x["classes"], batch["label"], None, 0.1))


def answers(x, batch, mesh):
    return token_loss.mean(classification.answer_loss(x["classes"], batch["scores"]))


def matched(x, batch, mesh, scope):
    """A fusion of sorts: every image token meets every text token."""
    image, text, scale = unit(x["image"]), unit(x["text"]), jnp.float32(5.0)
    keys = jax.random.wrap_key_data(batch["keys"])
    drawn = matching.hard_negatives(image, text, scale, batch["id"], keys, mesh=mesh, scope=scope)
    rows = lambda tokens, index: sharded_gather.gather_rows(tokens, index, mesh=mesh, scope=scope)
    images, texts = x["image_tokens"], x["text_tokens"]
    images = jnp.concatenate([images, images, rows(images, drawn.image_for_text)])
    texts = jnp.concatenate([texts, rows(texts, drawn.text_for_image), texts])
    met = jnp.einsum("bnd,bld->bnl", images, texts, precision="highest")
    logits = jnp.stack([jnp.tanh(met).sum((1, 2)), jnp.sin(met).sum((1, 2))], axis=1)
    loss, metrics = matching.itm_loss(logits, *matching.itm_targets(drawn.has_negative))
    return loss, metrics | {"drawn": drawn.image_for_text}


OBJECTIVES = {
    "triplet-hardest": functools.partial(triplets, negatives="hardest"),
    "caption": caption,
    "triplet-semi-hard": functools.partial(triplets, negatives="semi-hard"),
    "triplet-sum": functools.partial(triplets, negatives="sum"),
    "contrastive": softmax,
    "contrastive-queries": functools.partial(softmax, image="queries", label_smoothing=0.1),
    "mlm": mlm,
    "patches": patches,
    "classes": classes,
    "answers": answers,
    "itm": functools.partial(matched, scope="global"),
}
QUICK = ("caption",)


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=FULL) for name in OBJECTIVES])
def test_value_and_gradients_are_those_of_one_device(name):
    results, (x, batch) = [], batch_of()
    for mesh in (None, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))):
        put = lambda x: x if mesh is None else jax.device_put(x, mesh_lib.batch_sharding(mesh))  # noqa: B023
        run = jax.jit(jax.value_and_grad(lambda x, batch: OBJECTIVES[name](x, batch, mesh), has_aux=True))  # noqa: B023
        results.append(jax.tree.map(np.asarray, run(*jax.tree.map(put, (x, batch)))))
    ((value, metrics), gradients), ((expected, expected_metrics), expected_gradients) = reversed(results)
    assert abs(value - expected) <= 1e-5 * abs(expected) and expected > 0
    for key in expected_metrics:
        np.testing.assert_allclose(metrics[key], expected_metrics[key], rtol=1e-5)
    norms = {key: np.linalg.norm(x) for key, x in expected_gradients.items()}
    assert max(norms.values()) > 0
    for key, norm in norms.items():
        assert np.linalg.norm(gradients[key] - expected_gradients[key]) <= 1e-5 * norm
