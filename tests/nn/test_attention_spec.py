"""Who attends to whom: each part of the description, and their combinations, key by key."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.attention import AttentionSpec, attend, attention_weights

VALID = np.array([[1, 1, 0, 1, 1, 1], [0, 1, 1, 1, 0, 1]], bool)
AUTOREGRESSIVE = {
    "bidirectional": [0, 0, 0, 0, 0, 0],
    "causal": [1, 1, 1, 1, 1, 1],
    "prefix": [0, 0, 1, 1, 1, 1],
    "blocks": [[0, 0, 1, 0, 1, 0], [0, 1, 0, 0, 0, 1]],
}
SEGMENT = [[0, 0, 1, 1, 1, 0], [2, 1, 1, 1, 2, 2]]
CASES = {
    "nothing": {},
    "causal": dict(causal=True),
    "length": dict(length=4),
    "valid": dict(valid=VALID),
    **{name: dict(autoregressive=numbers) for name, numbers in AUTOREGRESSIVE.items()},
    "segment": dict(segment=SEGMENT),
    "segment of all": dict(segment=SEGMENT[0]),
    "causal segments": dict(causal=True, segment=SEGMENT, valid=VALID),
    "prefix and padding": dict(autoregressive=AUTOREGRESSIVE["prefix"], valid=VALID, length=5),
    "everything": dict(causal=True, autoregressive=AUTOREGRESSIVE["blocks"], segment=SEGMENT, valid=VALID, length=5),
}


def allowed(batch, query, key, *, causal=False, valid=None, length=None, autoregressive=None, segment=None):
    """One query and one key, as the documentation words it."""
    row = lambda numbers: np.broadcast_to(np.atleast_2d(numbers), VALID.shape)[batch]
    if causal and key > query:
        return False
    if valid is not None and not valid[batch, key]:
        return False
    if length is not None and key >= length:
        return False
    if segment is not None and row(segment)[query] != row(segment)[key]:
        return False
    # Hidden from all tokens before it is a token with 1, and so are those after it.
    return autoregressive is None or not any(row(autoregressive)[start] for start in range(query + 1, key + 1))


def arrays(case):
    return {key: value if key in ("causal", "length") else jnp.asarray(value) for key, value in case.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("offset", [None, 2])
def test_mask(case, offset):
    """With an offset the queries are the last keys."""
    first = offset or 0
    spec = AttentionSpec(**arrays(case), offset=None if offset is None else jnp.asarray(offset))
    mask = np.broadcast_to(spec.mask(6 - first, 6), (2, 6 - first, 6))
    for batch, query, key in np.ndindex(mask.shape):
        assert mask[batch, query, key] == allowed(batch, query + first, key, **case), (batch, query, key)


@pytest.mark.parametrize("name", ["nothing", "causal", "length", "valid", "prefix", "everything"])
def test_attention_follows_the_mask_and_tells_its_weights(name):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 6, 2, 4)), jnp.float32) for _ in range(3))
    spec = AttentionSpec(**arrays(CASES[name]))
    weights = np.asarray(attention_weights(q, k, spec))
    expected = np.zeros((2, 2, 6, 6))
    for b, t in np.ndindex(2, 6):
        keys = [s for s in range(6) if allowed(b, t, s, **CASES[name])]
        scores = np.exp(np.asarray(k, np.float64)[b, keys] @ np.asarray(q, np.float64)[b, t].T / 2)  # [keys, H, H]
        diagonal = np.einsum("shh->hs", scores)
        expected[b, :, t][:, keys] = diagonal / diagonal.sum(axis=1, keepdims=True) if keys else 0
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    sums = weights.sum(axis=-1)
    assert (np.isclose(sums, 1, atol=1e-6) | (sums == 0)).all()
    np.testing.assert_allclose(attend(q, k, v, spec), np.einsum("bhts,bshk->bthk", expected, v), atol=1e-6)
