"""Beam search and greedy decoding as transformers' `generate` does them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.generation import Decoding, generate


@pytest.fixture(scope="module")
def gpt2():
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3,
        bos_token_id=1, eos_token_id=2, pad_token_id=10, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # so that ends of text come often enough
        model.transformer.ln_f.bias.fill_(0.5)
        model.lm_head.weight[2] += 0.25
    return model


PROMPTS = np.array(list(itertools.product([1, 3, 5, 7, 9], repeat=2)))


LENGTH = 8


def generate_with(gpt2, settings, **options):
    """Our search around their network, which reads the whole history at every step."""
    import torch

    def logits_of(history, count):
        with torch.no_grad():
            return gpt2(torch.from_numpy(np.array(history[:, : int(count)])).long()).logits[:, -1].numpy()

    def ask(history, count):
        shape = jax.ShapeDtypeStruct((len(history), 11), jnp.float32)
        return jax.pure_callback(logits_of, shape, history, count)

    def step(carry, tokens):
        history = jax.lax.dynamic_update_slice(carry["history"], tokens[:, None], (0, carry["count"]))
        return ask(history, carry["count"] + 1), {"history": history, "count": carry["count"] + 1}

    history = jnp.pad(jnp.asarray(PROMPTS, jnp.int32), ((0, 0), (0, LENGTH)))
    carry = {"history": history, "count": jnp.int32(2)}
    return generate(step, ask(history, 2), carry, settings, **options)


@pytest.mark.full
@pytest.mark.parametrize(
    "beams, min_tokens, penalty",
    [(1, 0, 0.0), (1, 3, 0.0), (2, 0, 1.0), *itertools.product([4], [0, 3], [-1.0, 0.0, 1.0, 2.5])],
)
def test_hugging_face_finds_the_same(gpt2, beams, min_tokens, penalty):
    import torch

    settings = Decoding(
        method="beam",
        max_tokens=LENGTH,
        min_tokens=min_tokens,
        beams=beams,
        length_penalty=penalty,
        eos_id=2,
        pad_id=10,
    )
    actual = generate_with(gpt2, settings, n_best=beams)
    options = {} if beams == 1 else dict(length_penalty=penalty, early_stopping="never", num_return_sequences=beams)
    theirs = gpt2.generate(
        torch.from_numpy(PROMPTS), attention_mask=torch.ones(PROMPTS.shape), do_sample=False, num_beams=beams,
        max_new_tokens=LENGTH, min_new_tokens=min_tokens, return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip
    tokens = theirs.sequences[:, PROMPTS.shape[1] :].numpy()
    tokens = np.pad(tokens, ((0, 0), (0, LENGTH - tokens.shape[1])), constant_values=10)
    np.testing.assert_array_equal(np.asarray(actual.tokens).reshape(-1, LENGTH), tokens)
    if penalty <= 1:  # above, the longest win
        assert len(set(np.asarray(actual.lengths).ravel())) > 1
    if beams > 1:
        np.testing.assert_allclose(actual.scores.reshape(-1), theirs.sequences_scores, rtol=1e-5)
