"""BERT, ALBEF, ViLT and Q-Former against PyTorch's with the same weights; what changes nothing; cached captions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.albef import ALBEF
from mmjax.models.heads import MatchHead, Pooler
from mmjax.models.language import TextStack
from mmjax.models.qformer import QFormer
from mmjax.models.vilt import ViLT
from mmjax.nn.attention import AttentionSpec
from mmjax.parallel.partition import path_name
from tests.helpers import runs, torch_fusion
from tests.helpers.torch_writers import weights_of

GOLDEN = runs.ROOT / "tests/golden/models"
PROMPTS = np.array([2, 1, 3])  # tokens of each caption that are read at once
ORDER = np.array([2, 0, 1])


def bert(params, images, valid, garbage, text, mask, types):
    """BERT with a pooler and the heads it was trained with; it looks at no image."""
    del images, valid, garbage
    stack, pooler, match = params
    model = TextStack(**torch_fusion.BERT, causal=False, head="mlm").bind({"params": stack})
    tokens = model.run(model.embed(text, types=types), AttentionSpec(valid=mask)).tokens
    pooled = Pooler().apply({"params": pooler}, tokens)
    return dict(tokens=tokens, match=MatchHead().apply({"params": match}, pooled), words=model.logits(tokens))


def encoded(model, images, valid, garbage, text, mask):
    """Both sides, with garbage where tokens are not valid."""
    image, text = model.encode_image(images), model.encode_text(text, mask)
    spoil = lambda tokens, valid: jnp.where(valid[..., None], tokens, garbage)
    return image._replace(tokens=spoil(image.tokens, valid), valid=valid), text._replace(
        tokens=spoil(text.tokens, mask)
    )


def albef(params, images, valid, garbage, text, mask, types):
    del types
    model = ALBEF(**torch_fusion.ALBEF).bind({"params": params})
    image, words = encoded(model, images, valid, garbage, text, mask)
    fused = model.fuse(image, words, text)
    return dict(
        image=model.embed_image(image),
        text=model.embed_text(words),
        match=model.match_logits(fused),
        words=model.word_logits(fused),
        answers=model.answer_logits(fused),
    )


def vilt(params, images, valid, garbage, text, mask, types):
    del types
    model = ViLT(**torch_fusion.VILT).bind({"params": params})
    image, words = encoded(model, images, valid, garbage, text, mask)
    fused = model.fuse(image, words, text)
    return dict(
        tokens=fused.tokens[:, : text.shape[1] + 1],  # with the class token of the image
        pooled=model.pool(fused.tokens),
        answers=model.answer_logits(fused),
        words=model.word_logits(fused),
    )


def qformer(params, images, valid, garbage, text, mask, types):
    del types
    model = QFormer(**torch_fusion.QFORMER).bind({"params": params})
    image, words = encoded(model, images, valid, garbage, text, mask)
    return dict(
        image=model.embed_image(image),
        text=model.embed_text(words),
        match=model.match_logits(model.fuse(image, words, text)),
        captions=model.caption_logits(image, text, mask),
    )


MODELS = {"bert": bert, "albef": albef, "vilt": vilt, "qformer": qformer}
VALID = np.array([[True, True, False, True, True], [True] * 5, [True, False, False, False, True]])


def arguments(valid=None):
    images, text, mask, types = torch_fusion.inputs()
    return [images, np.ones_like(VALID) if valid is None else valid, np.float32(0), text, mask, types]


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """The name, the compiled function, its parameters and what the library computed with them."""
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        arrays = dict(file)
    expected = {key.removeprefix("expected/"): arrays.pop(key) for key in list(arrays) if key.startswith("expected/")}
    params = getattr(torch_fusion, f"{request.param}_params")(arrays)
    return request.param, jax.jit(MODELS[request.param]), params, expected


def check(actual, expected, mask):
    """Nobody compares what stands where padding is."""
    assert actual.keys() == expected.keys()
    for key, value in actual.items():
        rows = slice(None)
        if key in ("tokens", "words", "captions"):
            rows = np.pad(mask, ((0, 0), (0, value.shape[1] - mask.shape[1])), constant_values=True)
        np.testing.assert_allclose(np.asarray(value)[rows], np.asarray(expected[key])[rows], atol=1e-5, err_msg=key)


def test_outputs_are_those_of_the_library(model):
    _, run, params, expected = model
    inputs = arguments()
    check(run(params, *inputs), expected, inputs[4])


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_the_installed_library(name):
    theirs, expected = getattr(torch_fusion, name)()
    params, inputs = getattr(torch_fusion, f"{name}_params")(weights_of(theirs)), arguments()
    check(jax.jit(MODELS[name])(params, *inputs), expected, inputs[4])


def test_padding_and_the_other_examples_change_nothing(model):
    """NaN in tokens of either side that are not valid, other words in the padding, examples in another order."""
    _, run, params, _ = model
    images, valid, _, text, mask, types = arguments(VALID)
    before = run(params, images, valid, np.float32(0), text, mask, types)
    assert all(np.isfinite(x).all() for x in before.values())
    changed = np.where(mask, text, torch_fusion.VOCAB - 1)
    spoilt = [images[ORDER], valid[ORDER], np.float32(np.nan), changed[ORDER], mask[ORDER], types[ORDER]]
    check(run(params, *spoilt), {key: x[ORDER] for key, x in before.items()}, mask[ORDER])
    first = [np.repeat(x[:1], 3, axis=0) for x in (images, valid)]
    after = run(params, *first, np.float32(0), text, mask, types)
    check({key: x[:1] for key, x in after.items()}, {key: x[:1] for key, x in before.items()}, mask[:1])


def test_captions_from_a_cache_score_what_teacher_forcing_scores():
    """A prompt of another length for each example, rows in another order after it, one token at a time."""
    with np.load(GOLDEN / "qformer.npz") as file:
        arrays = dict(file)
    params, expected = torch_fusion.qformer_params(arrays), arrays["expected/captions"]
    model = QFormer(**torch_fusion.QFORMER)
    images, *_, text, mask, _ = arguments()
    length, width = text.shape[1], int(PROMPTS.max())
    real = np.arange(width) < PROMPTS[:, None]
    prompt = np.where(real, text[:, :width], torch_fusion.VOCAB - 1)

    @jax.jit
    def write(params, images, prompt, real):
        bound = model.bind({"params": params})
        # Slots of the padded prompt are not used again.
        first, carry = bound.start(bound.encode_image(images), prompt, real, width + length)
        carry, back = model.take(carry, jnp.asarray(ORDER)), np.argsort(ORDER)

        def step(carry, i):
            tokens = jnp.take_along_axis(text, jnp.minimum(PROMPTS + i, length - 1)[:, None], axis=1)[:, 0]
            logits, carry = model.apply({"params": params}, carry, tokens[ORDER], method="step")
            return carry, logits[back]

        _, rest = jax.lax.scan(step, carry, jnp.arange(length - 1))
        return jnp.concatenate([first[None], rest]).swapaxes(0, 1)

    actual = write(params, images, prompt, real)
    for row, (count, start) in enumerate(zip(mask.sum(axis=1), PROMPTS, strict=True)):
        wanted = expected[row, start - 1 : count]
        assert len(wanted) > 1
        np.testing.assert_allclose(actual[row, : len(wanted)], wanted, atol=1e-5)


@pytest.mark.full
def test_every_parameter_has_a_gradient(model):
    """And NaN where tokens are not valid gives none that is not finite."""
    name, run, params, _ = model
    rng = np.random.default_rng(0)
    images, valid, _, text, mask, types = arguments(VALID)
    types = np.where(mask, types, 0)

    def loss(params):
        out = run(params, images, valid, np.float32(np.nan), text, mask, types)
        return sum((rng.standard_normal(x.shape) * x).sum() for x in out.values())

    for path, gradient in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        where = path_name(path)
        assert np.isfinite(gradient).all(), where
        # What the outputs above do not go through; the scale's place is in the loss.
        unused = ("logit_scale", "mask_token", "pixel_head", *(("match_head",) if name == "vilt" else ()))
        assert (np.abs(gradient).max() > 0) != any(part in where for part in unused), where


@pytest.mark.full
def test_hidden_patches_are_told_from_the_others(random_params):
    """Their pixels do not count, and what is learned in their place, with the head for pixels, has a gradient."""
    model = ViLT(**torch_fusion.VILT)
    images, _, _, text, mask, _ = arguments()
    text, mask = jnp.asarray(text), jnp.asarray(mask)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(images), text, mask)["params"]
    params = random_params(shapes)
    hidden = np.array([[True, False, False, True], [False, True, False, False], [False, False, True, True]])

    @jax.jit
    @jax.value_and_grad
    def loss(params, images):
        bound = model.bind({"params": params})
        image = bound.encode_image(images, None, jnp.asarray(hidden))
        pixels = bound.patch_pixels(bound.fuse(image, bound.encode_text(text, mask), text))
        assert pixels.shape == (3, 4, 3 * torch_fusion.PATCH**2)
        return (pixels**2).sum()

    total, gradients = loss(params, images)
    for part in (gradients["image"]["mask_token"], gradients["pixel_head"]["kernel"]):
        assert np.isfinite(part).all() and np.abs(part).max() > 0
    for patch in range(4):
        top, left = torch_fusion.PATCH * (patch // 2), torch_fusion.PATCH * (patch % 2)
        changed = images.copy()
        changed[hidden[:, patch], top : top + torch_fusion.PATCH, left : left + torch_fusion.PATCH] = 9.0
        np.testing.assert_allclose(loss(params, changed)[0], total, rtol=1e-6)
    changed = images.copy()
    changed[1, : torch_fusion.PATCH, : torch_fusion.PATCH] = 9.0
    assert abs(loss(params, changed)[0] - total) > 1e-3
