"""BLIP, GPT-2 with cross-attention (Hugging Face) and CoCa (OpenCLIP) with the same weights: what they computed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_writers

from mmjax.models.captioner import Captioner
from mmjax.models.coca import CoCa
from mmjax.models.encoders import Encoded
from mmjax.models.language import TextStack
from mmjax.nn.transformer import Memory

GOLDEN = Path(__file__).parent / "golden"


def golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    prefix = "expected/"
    expected = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    return {key: value for key, value in arrays.items() if not key.startswith(prefix)}, expected


def apply(module, params, method):
    """Runs a function of a bound module, compiled."""
    return jax.jit(lambda params: method(module.bind({"params": params})))(params)


def check(found, expected, mask):
    """Tokens that are padding have no logits worth comparing."""
    for key, value in found.items():
        rows = np.asarray(mask) if key == "logits" else slice(None)
        np.testing.assert_allclose(np.asarray(value)[rows], expected[key][rows], atol=1e-5, err_msg=key)


def check_blip(arrays, expected):
    images, text, mask, _, _ = map(jnp.asarray, torch_writers.inputs())
    model, params = Captioner(**torch_writers.BLIP), torch_writers.blip_params(arrays)

    def run(model):
        image = model.encode_image(images)
        return dict(image=image.tokens, logits=model.caption_logits(image, text, mask))

    check(apply(model, params, run), expected, mask)


def check_gpt2(arrays, expected):
    _, text, mask, memory, real = map(jnp.asarray, torch_writers.inputs())
    model, params = TextStack(**torch_writers.GPT_TEXT), torch_writers.gpt2_params(arrays)
    memory = Memory(memory, real)
    run = lambda model: dict(logits=model.logits(model(text, mask, memory).tokens))
    check(apply(model, params, run), expected, mask)


def check_coca(arrays, expected):
    images, text, mask, _, _ = map(jnp.asarray, torch_writers.inputs())
    model, params = CoCa(**torch_writers.COCA), torch_writers.coca_params(arrays)

    def run(model):
        image, words = model.encode_image(images), model.encode_text(text, mask)
        assert isinstance(words, Encoded)
        embeddings = dict(image=model.embed_image(image), text=model.embed_text(words))
        return embeddings | dict(logits=model.decode(image, words))

    check(apply(model, params, run), expected, mask)


CHECKS = {"blip": check_blip, "gpt2": check_gpt2, "coca": check_coca}


@pytest.mark.parametrize("name", CHECKS)
def test_computes_what_the_library_computed(name):
    CHECKS[name](*golden(name))


@pytest.mark.full
@pytest.mark.parametrize("name", ["blip", "gpt2"])
def test_computes_what_the_library_computes(name):
    model, expected = getattr(torch_writers, name)()
    CHECKS[name](torch_writers.weights_of(model), expected)
