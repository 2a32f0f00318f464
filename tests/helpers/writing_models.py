"""What is asked of every model that writes text."""

import copy

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.models.captioner import Captioner
from mmjax.models.coca import CoCa
from mmjax.models.prefix_lm import PrefixLM
from mmjax.models.variants import generative
from mmjax.parallel.partition import path_name
from tests.helpers import runs
from tests.helpers.torch_writers import CONTEXT, LENGTHS, VOCAB

KINDS = {"captioner": Captioner, "coca": CoCa, "prefix_lm": PrefixLM}
GOLDEN = runs.ROOT / "tests/golden/models"
PROMPTS = np.array([2, 3, 1])  # tokens of each text that are read at once
ORDER = np.array([2, 0, 1])
SEP = 5


def make(name, **changes):
    """A model of the size table; `changes` to its settings, those of a part by `part.field`."""
    settings = copy.deepcopy(generative.GENERATIVE[name])
    settings.pop("max_logit_scale", None)
    for key, value in changes.items():
        *part, field = key.split("__")
        (settings[part[0]] if part else settings)[field] = value
    return KINDS[settings.pop("kind")](**settings)


def shapes_of(model):
    side = model.image["image_size"]
    arguments = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32), jax.ShapeDtypeStruct((1, 8), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), *arguments)["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def golden(name):
    """Weights of another library's model, and what it computed."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    expected = {key.removeprefix("expected/"): arrays.pop(key) for key in list(arrays) if key.startswith("expected/")}
    return arrays, expected


def inputs(tokens):
    """Images, which of their tokens are real, what stands in place of the others, texts, which of theirs are real."""
    rng = np.random.default_rng(0)
    mask = np.arange(CONTEXT) < LENGTHS[:, None]
    text = np.where(mask, rng.integers(SEP + 1, VOCAB, mask.shape), 0).astype(np.int32)
    valid = rng.random((3, tokens)) < 0.7
    return [rng.standard_normal((3, 16, 16, 3)).astype(np.float32), valid, np.float32(0), text, mask]


def forward(model, params, images, valid, garbage, text, mask, *, embed):
    """Logits by teacher forcing (0 at padding), embeddings if told so, and the encoded images."""
    bound = model.bind({"params": params})
    image = bound.encode_image(images)
    image = image._replace(tokens=jnp.where(valid[..., None], image.tokens, garbage), valid=valid)
    if not embed:
        logits, out = bound.caption_logits(image, text, mask), {}
    else:
        words = bound.encode_text(text, mask)
        logits, out = bound.decode(image, words), dict(image=bound.embed_image(image), text=bound.embed_text(words))
    return out | dict(logits=jnp.where(mask[..., None], logits, 0)), image


def exercise(model, embed=False):
    """Returns a compiled function of parameters and `inputs`.

    It gives what `forward` gives, and the logits that come from a cache, rows in another order meanwhile.
    """

    def run(params, *arguments):
        out, image = forward(model, params, *arguments, embed=embed)
        text = arguments[-2]
        width = int(PROMPTS.max())
        real = jnp.arange(width) < PROMPTS[:, None]
        prompt = jnp.where(real, text[:, :width], VOCAB - 1)
        first, carry = model.apply({"params": params}, image, prompt, real, width + text.shape[1], method="start")
        taken, back = model.take(carry, jnp.asarray(ORDER)), np.argsort(ORDER)

        def step(carry, i):
            tokens = jnp.take_along_axis(text, jnp.minimum(PROMPTS + i, text.shape[1] - 1)[:, None], axis=1)[:, 0]
            logits, carry = model.apply({"params": params}, carry, tokens[ORDER], method="step")
            return carry, logits[back]

        _, rest = jax.lax.scan(step, taken, jnp.arange(text.shape[1] - 1))
        return out | dict(tokens=image.tokens), jnp.concatenate([first[None], rest]).swapaxes(0, 1)

    compiled = jax.jit(run)
    return lambda *arguments: jax.tree.map(np.asarray, compiled(*arguments))


def gradients(model, params, arguments):
    """Of a fixed projection of all that `forward` gives."""
    rng = np.random.default_rng(1)

    def loss(params, *arguments):
        out, _ = forward(model, params, *arguments, embed=hasattr(model, "embed_image"))
        value = sum((rng.standard_normal(x.shape) * x).sum() for x in out.values())
        # The scale of similarities has no place but in the loss.
        return value + params.get("logit_scale", 0.0)

    return jax.jit(jax.grad(loss))(params, *arguments)


def check_golden(out, expected, mask):
    """Tokens that are padding have no logits worth comparing."""
    for key, value in expected.items():
        rows = mask if key == "logits" else slice(None)
        np.testing.assert_allclose(out[key][rows], value[rows], atol=1e-5, err_msg=key)


def check_cached(out, cached):
    """Cached decoding scores what teacher forcing scores."""
    for row, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS, strict=True)):
        steps = length - prompt + 1
        assert steps > 1
        expected = out["logits"][row, prompt - 1 : length]
        np.testing.assert_allclose(cached[row, :steps], expected, rtol=1e-5, atol=2e-5)
        assert np.std(expected, axis=0).max() > 0.1  # steps differ


def check_gradients(model, params, arguments, but=()):
    """Every parameter takes part; of tokens that are not valid no NaN comes through."""
    images, valid, _, text, mask = arguments
    result = gradients(model, params, [images, valid, np.float32(np.nan), text, mask])
    for path, x in jax.tree_util.tree_leaves_with_path(result):
        name = path_name(path)
        assert np.isfinite(x).all(), name
        assert (np.abs(x).max() > 0) != any(part in name for part in but), name
    return result


def check_only_what_is_real(run, params, arguments, result):
    """Padding, image tokens that are not valid and the other examples of a batch change nothing."""
    images, valid, _, text, mask = arguments
    changed, others = np.where(mask, text, VOCAB - 1), np.array([0, 2, 1])
    out, _ = run(params, images[others], valid[others], np.float32(np.nan), changed[others], mask[others])
    kept = {key: value for key, value in result[0].items() if key != "tokens"}
    for key, value in kept.items():
        np.testing.assert_allclose(out[key], value[others], rtol=1e-5, atol=1e-5, err_msg=key)
    alone = [x[:1].repeat(3, axis=0) for x in (images, valid)]
    out, _ = run(params, *alone, np.float32(0), text, mask)
    for key, value in kept.items():
        np.testing.assert_allclose(out[key][0], value[0], rtol=1e-5, atol=1e-5, err_msg=key)
