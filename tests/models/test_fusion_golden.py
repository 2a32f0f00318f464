"""BERT, ViLT, BLIP-2's Q-Former and an ALBEF of Hugging Face's parts with the same weights: what they computed."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_fusion
from torch_writers import weights_of

from mmjax.models.albef import ALBEF
from mmjax.models.heads import MatchHead, Pooler
from mmjax.models.language import TextStack
from mmjax.models.qformer import QFormer
from mmjax.models.vilt import ViLT
from mmjax.nn.attention import AttentionSpec

GOLDEN = Path(__file__).parent / "golden"


def run_bert(arrays, text, mask, types, images):
    del images
    stack, pooler, match = torch_fusion.bert_params(arrays)

    def run(model):
        tokens = model.run(model.embed(text, types=types), AttentionSpec(valid=mask)).tokens
        pooled = Pooler().apply({"params": pooler}, tokens)
        return dict(tokens=tokens, match=MatchHead().apply({"params": match}, pooled), words=model.logits(tokens))

    return TextStack(**torch_fusion.BERT, causal=False, head="mlm"), stack, run


def run_albef(arrays, text, mask, types, images):
    del types

    def run(model):
        image, encoded = model.encode_image(images), model.encode_text(text, mask)
        fused = model.fuse(image, encoded, text)
        return dict(
            image=model.embed_image(image),
            text=model.embed_text(encoded),
            match=model.match_logits(fused),
            words=model.word_logits(fused),
            answers=model.answer_logits(fused),
        )

    return ALBEF(**torch_fusion.ALBEF), torch_fusion.albef_params(arrays), run


def run_vilt(arrays, text, mask, types, images):
    del types

    def run(model):
        fused = model.fuse(model.encode_image(images), model.encode_text(text, mask), text)
        return dict(
            tokens=fused.tokens[:, : torch_fusion.CONTEXT + 1],
            pooled=model.pool(fused.tokens),
            words=model.word_logits(fused),
            answers=model.answer_logits(fused),
        )

    return ViLT(**torch_fusion.VILT), torch_fusion.vilt_params(arrays), run


def run_qformer(arrays, text, mask, types, images):
    del types

    def run(model):
        image, encoded = model.encode_image(images), model.encode_text(text, mask)
        return dict(
            image=model.embed_image(image),
            text=model.embed_text(encoded),
            match=model.match_logits(model.fuse(image, encoded, text)),
            captions=model.caption_logits(image, text, mask),
        )

    return QFormer(**torch_fusion.QFORMER), torch_fusion.qformer_params(arrays), run


RUNS = {"bert": run_bert, "albef": run_albef, "vilt": run_vilt, "qformer": run_qformer}


def check(name, arrays, expected):
    images, text, mask, types = map(jnp.asarray, torch_fusion.inputs())
    model, params, run = RUNS[name](arrays, text, mask, types, images)
    found = jax.jit(lambda params: run(model.bind({"params": params})))(params)
    assert found.keys() == expected.keys()
    for key, value in found.items():
        rows = slice(None)
        if key in ("tokens", "words", "captions"):  # what stands where padding is nobody compares
            rows = np.pad(np.asarray(mask), ((0, 0), (0, value.shape[1] - mask.shape[1])), constant_values=True)
        np.testing.assert_allclose(np.asarray(value)[rows], expected[key][rows], atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", RUNS)
def test_outputs_are_those_of_the_library(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        arrays = dict(file)
    prefix = "expected/"
    expected = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    check(name, {key: value for key, value in arrays.items() if not key.startswith(prefix)}, expected)


@pytest.mark.full
@pytest.mark.parametrize("name", RUNS)
def test_outputs_are_those_of_the_installed_library(name):
    model, expected = getattr(torch_fusion, name)()
    check(name, weights_of(model), expected)
