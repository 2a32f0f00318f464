"""Greedy search, sampling and beam search over any step function.

A model is met as two functions: `step(carry, tokens) -> (logits, carry)` reads one more token of each of R rows, and
`take(carry, rows) -> carry` picks rows, in any order and any number. What the carry holds (a key-value cache, an LSTM's
state) is the model's affair. Everything has static shapes and runs inside `jax.jit`; the loop ends as soon as every
example is finished, and no example's result depends on the others of its batch.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.errors import UserError, validate_choice
from mmjax.parallel.gather_rows import take_rows, top_k_rows

METHODS = ("greedy", "sample", "beam")

Carry = Any
Step = Callable[[Carry, Array], tuple[Array, Carry]]
Take = Callable[[Carry, Array], Carry]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen. Names and meanings are Hugging Face's, where it has them.

    A sequence's length counts its generated tokens, the end-of-text token included and the prompt not.

    Attributes:
      method: `greedy` (the likeliest token), `sample`, or `beam`.
      max_tokens: length after which a sequence ends even without an end-of-text token.
      min_tokens: as many tokens are generated before an end-of-text token may come (Hugging Face's `min_new_tokens`).
      temperature: divides the logits before sampling; 0 is greedy search.
      top_k: sample from the `top_k` likeliest tokens only; 0 = all.
      top_p: sample from the fewest likeliest tokens whose probabilities, after `temperature` and `top_k`, reach `top_p`
        (nucleus sampling, arXiv:1904.09751). Of equal logits the lower id counts as likelier, here and in `top_k`.
      beams: hypotheses kept a step; with 1, beam search is greedy search.
      length_penalty: a hypothesis's score is its summed log-probability / length ** length_penalty, so that more than 0
        favours long ones.
      suppress_tokens: ids that are never chosen.
      begin_suppress_tokens: ids that are not chosen first.
      eos_id: the end-of-text token.
      pad_id: what follows it.

    Raises:
      UserError: a value that makes no sense.
    """

    method: str = "greedy"
    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    beams: int = 4
    length_penalty: float = 1.0
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    eos_id: int
    pad_id: int

    def __post_init__(self):
        validate_choice("decoding.method", self.method, METHODS)
        longest = max(self.max_tokens, 2)
        steepest = 80 / math.log(longest)  # beyond it the divisor leaves float32
        for field, right, remedy in (
            ("max_tokens", self.max_tokens >= 1, "it must be at least 1"),
            ("min_tokens", 0 <= self.min_tokens <= self.max_tokens, f"choose 0 to max_tokens={self.max_tokens}"),
            (
                "temperature",
                self.temperature == 0 or 1e-6 <= self.temperature < math.inf,
                "choose 0 (greedy), or 1e-6 or more",
            ),
            ("top_k", self.top_k >= 0, "choose how many tokens to sample from, 0 for all"),
            ("top_p", 0 < self.top_p <= 1, "choose more than 0 and at most 1 (all tokens)"),
            ("beams", self.beams >= 1, "it must be at least 1"),
            ("length_penalty", abs(self.length_penalty) <= steepest, f"choose -{steepest:.0f} to {steepest:.0f}"),
            ("eos_id", self.eos_id >= 0, "it must be the id of a token"),
            ("pad_id", self.pad_id >= 0, "it must be the id of a token"),
        ):
            if not right:
                raise UserError(f"decoding.{field}={getattr(self, field)} is out of range: {remedy}")


class Generated(NamedTuple):
    """What `generate` returns; with `n_best`, each array has an axis of hypotheses after the first, best first.

    Attributes:
      tokens: [B, T] ids, T = `max_tokens`; `pad_id` after the end-of-text token.
      lengths: [B] generated tokens, the end-of-text token included.
      scores: [B] summed log-probability under the model (never under a truncated or tempered distribution), divided by
        length ** length_penalty.
    """

    tokens: Int[Array, "*B T"]
    lengths: Int[Array, " *B"]
    scores: Float[Array, " *B"]


def generate(
    step: Step,
    logits: Float[Array, "B V"],
    carry: Carry,
    decoding: Decoding,
    keys: Key[Array, " B"] | None = None,
    *,
    take: Take | None = None,
    n_best: int | None = None,
) -> Generated:
    """Generates a sequence, or several, for each example.

    Beam search is Hugging Face's with `early_stopping="never"`: of the 2 * `beams` likeliest continuations of a step,
    those among the first `beams` that end are finished hypotheses and the likeliest others go on; at `max_tokens` the
    first `beams` end as they are. An example is finished when no continuation can score above what it would return;
    log-probabilities only fall, so the bound is exact and stopping changes nothing.

    Args:
      step: `(carry, tokens int32 [R]) -> (logits [R, V], carry)`, for any R.
      logits: of each example's first token, from the model's prompt.
      carry: what `step` continues from, of R = B rows.
      decoding: how tokens are chosen.
      keys: one per example, for sampling.
      take: `(carry, rows int32 [R2]) -> carry`; `take_rows` along axis 0 by default. An example's rows, as many
        as any other's, are together and in order, and it picks among its own only.
      n_best: hypotheses returned per example: the best finished ones of a beam search, or independent samples, best
        first. None: one, without an axis for it. Where a beam search finds fewer, the rest have length 0 and score
        -inf.

    Raises:
      UserError: the vocabulary lacks `eos_id` or `pad_id`, sampling without `keys`, or more hypotheses than the method
        can have.
    """
    examples, vocabulary = logits.shape
    for field in ("eos_id", "pad_id", "suppress_tokens", "begin_suppress_tokens"):
        for value in np.ravel(getattr(decoding, field)).astype(int).tolist():
            if not 0 <= value < vocabulary:
                raise UserError(f"decoding.{field}={value} is no token of this model; choose an id below {vocabulary}")
    if len({*decoding.suppress_tokens, *decoding.begin_suppress_tokens}) >= vocabulary:
        raise UserError("decoding.suppress_tokens and decoding.begin_suppress_tokens leave no token; leave some out")
    take = take or functools.partial(take_rows, examples=examples)
    number = 1 if n_best is None else n_best
    sampling = decoding.method == "sample" and decoding.temperature > 0
    beam = decoding.method == "beam" and decoding.beams > 1
    most = math.inf if sampling else decoding.beams if beam else 1
    if not 1 <= number <= most:
        raise UserError(
            f"n_best={number} is out of range: method={decoding.method!r} with these settings has 1 to {most}"
        )

    if beam:
        generated = beam_search(step, logits, carry, decoding, take=take, n_best=number)
    elif sampling:
        if keys is None:
            raise UserError("keys=None is not enough to sample; pass one key per example")
        generated = _samples(step, logits, carry, decoding, keys, take, number)
    else:
        generated = _one_by_one(step, logits, carry, decoding, lambda logits, count: jnp.argmax(logits, axis=-1))
        generated = jax.tree.map(lambda x: x[:, None], generated)
    return jax.tree.map(lambda x: x[:, 0], generated) if n_best is None else generated


def truncate(logits: Float[Array, "R V"], top_k: int = 0, top_p: float = 1.0) -> Float[Array, "R V"]:
    """Sets all but the likeliest tokens of each row to -inf; see `Decoding` for `top_k` and `top_p`."""
    vocabulary = logits.shape[-1]
    kept = min(top_k or vocabulary, vocabulary)
    if kept == vocabulary and top_p >= 1:
        return logits
    values, ids = top_k_rows(logits, kept)  # equal ones in the order of their ids
    reached = jnp.cumsum(jax.nn.softmax(values), axis=-1)
    before = jnp.pad(reached[:, :-1], ((0, 0), (1, 0)))
    if top_p < 1:
        values = jnp.where(before < top_p, values, -jnp.inf)
    nothing = jnp.full(vocabulary, -jnp.inf, logits.dtype)
    return jax.vmap(lambda ids, values: nothing.at[ids].set(values))(ids, values)


def _samples(step, logits, carry, decoding, keys, take, number) -> Generated:
    """`number` independent samples of each example, best first."""
    examples = len(logits)
    if number > 1:
        carry = take(carry, jnp.repeat(jnp.arange(examples), number))
    fold_index = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = jax.vmap(fold_index, in_axes=(0, None))(keys, jnp.arange(number)).reshape(-1)

    def pick(logits, count):
        # The largest becomes 0 first, so that no temperature overflows.
        logits = (logits - logits.max(axis=-1, keepdims=True)) / decoding.temperature
        noise = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, count)
        return jax.vmap(jax.random.categorical)(noise, truncate(logits, decoding.top_k, decoding.top_p))

    generated = _one_by_one(step, jnp.repeat(logits, number, axis=0), carry, decoding, pick)
    generated = jax.tree.map(lambda x: x.reshape(examples, number, *x.shape[1:]), generated)
    return _best(generated, number)


class _Rows(NamedTuple):
    """One sequence a row, `count` tokens long unless it is done."""

    count: Int[Array, ""]
    tokens: Int[Array, "R T"]
    lengths: Int[Array, " R"]
    total: Float[Array, " R"]
    done: Bool[Array, " R"]


def _one_by_one(step, logits, carry, decoding, pick) -> Generated:
    """Chooses each row's next token by `pick(logits [R, V], count) -> [R]`, until all are done."""
    rows = len(logits)

    def extend(state: _Rows, logits) -> _Rows:
        logits = logits.astype(jnp.float32)
        token = pick(_allowed(logits, state.count, decoding), state.count).astype(jnp.int32)
        gain = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
        token = jnp.where(state.done, decoding.pad_id, token)
        return _Rows(
            count=state.count + 1,
            tokens=jax.lax.dynamic_update_slice(state.tokens, token[:, None], (0, state.count)),
            lengths=state.lengths + ~state.done,
            total=state.total + jnp.where(state.done, 0, gain),
            done=state.done | (token == decoding.eos_id) | (state.count + 1 == decoding.max_tokens),
        )

    def body(loop):
        state, carry = loop
        token = jax.lax.dynamic_slice_in_dim(state.tokens, state.count - 1, 1, axis=1)[:, 0]
        logits, carry = step(carry, token)
        return extend(state, logits), carry

    state = _Rows(
        count=jnp.int32(0),
        tokens=jnp.full((rows, decoding.max_tokens), decoding.pad_id, jnp.int32),
        lengths=jnp.zeros(rows, jnp.int32),
        total=jnp.zeros(rows, jnp.float32),
        done=jnp.zeros(rows, bool),
    )
    state, _ = jax.lax.while_loop(lambda loop: ~loop[0].done.all(), body, (extend(state, logits), carry))
    return Generated(state.tokens, state.lengths, state.total / _divisors(decoding)[state.lengths])


class _Beams(NamedTuple):
    """`count` tokens of each running hypothesis, likeliest first, and the best finished ones so far."""

    count: Int[Array, ""]
    tokens: Int[Array, "B K T"]
    totals: Float[Array, "B K"]  # -inf where there are fewer than K
    rows: Int[Array, " R"]  # of the carry, that each continues
    best: Generated


def beam_search(
    step: Step, logits: Float[Array, "B V"], carry: Carry, decoding: Decoding, *, take: Take, n_best: int
) -> Generated:
    """Beam search as `generate` describes it, also with one beam: [B, n_best] hypotheses, best first."""
    examples, vocabulary = logits.shape
    beams, longest = decoding.beams, decoding.max_tokens
    divisors = _divisors(decoding)

    def extend(state: _Beams, logits) -> _Beams:
        gains = jax.nn.log_softmax(logits.astype(jnp.float32))
        gains = _allowed(gains, state.count, decoding).reshape(examples, beams, vocabulary)
        totals = (state.totals[:, :, None] + gains).reshape(examples, -1)
        totals, index = top_k_rows(totals, 2 * beams)  # enough: at most `beams` of them are the end of text
        parents, token = index // vocabulary, (index % vocabulary).astype(jnp.int32)
        count = state.count + 1
        tokens = jnp.take_along_axis(state.tokens, parents[:, :, None], axis=1).at[:, :, state.count].set(token)

        ended = (token == decoding.eos_id) | (count == longest)
        ended &= jnp.arange(2 * beams) < beams
        finished = Generated(
            tokens, jnp.broadcast_to(count, token.shape), jnp.where(ended, totals / divisors[count], -jnp.inf)
        )
        # Those found earlier stand first and win a tie.
        best = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), state.best, finished)

        totals, chosen = top_k_rows(jnp.where(token == decoding.eos_id, -jnp.inf, totals), beams)
        rows = jnp.take_along_axis(parents, chosen, axis=1) + beams * jnp.arange(examples)[:, None]
        tokens = jnp.take_along_axis(tokens, chosen[:, :, None], axis=1)
        return _Beams(count, tokens, totals, rows.reshape(-1), _best(best, n_best))

    def unfinished(loop):
        state, _ = loop
        # The most that a running hypothesis can come to: nothing more is lost, at the length that divides best.
        length = longest if decoding.length_penalty > 0 else jnp.minimum(state.count + 1, longest)
        hope = state.totals[:, 0] / divisors[length]
        return (state.count < longest) & (hope > state.best.scores[:, -1]).any()

    def body(loop):
        state, carry = loop
        token = jax.lax.dynamic_slice_in_dim(state.tokens, state.count - 1, 1, axis=2)
        logits, carry = step(take(carry, state.rows), token.reshape(-1))
        return extend(state, logits), carry

    # One hypothesis without a token; its copies are out of the running.
    state = _Beams(
        count=jnp.int32(0),
        tokens=jnp.full((examples, beams, longest), decoding.pad_id, jnp.int32),
        totals=jnp.full((examples, beams), -jnp.inf).at[:, 0].set(0.0),
        rows=jnp.zeros(examples * beams, jnp.int32),
        best=Generated(
            jnp.full((examples, n_best, longest), decoding.pad_id, jnp.int32),
            jnp.zeros((examples, n_best), jnp.int32),
            jnp.full((examples, n_best), -jnp.inf),
        ),
    )
    state = extend(state, jnp.repeat(logits, beams, axis=0))
    carry = take(carry, jnp.repeat(jnp.arange(examples), beams))
    state, _ = jax.lax.while_loop(unfinished, body, (state, carry))
    tokens, lengths, scores = state.best
    nothing = scores == -jnp.inf
    return Generated(jnp.where(nothing[:, :, None], decoding.pad_id, tokens), jnp.where(nothing, 0, lengths), scores)


def _allowed(logits, count, decoding: Decoding):
    """Keeps out what is suppressed, and the end of text while there are fewer than `min_tokens`."""
    if not (decoding.min_tokens or decoding.suppress_tokens or decoding.begin_suppress_tokens):
        return logits
    ids = jnp.arange(logits.shape[-1])
    forbidden = jnp.isin(ids, jnp.asarray(decoding.suppress_tokens, jnp.int32))
    forbidden |= jnp.isin(ids, jnp.asarray(decoding.begin_suppress_tokens, jnp.int32)) & (count == 0)
    forbidden |= (ids == decoding.eos_id) & (count < decoding.min_tokens)
    return jnp.where(forbidden, -jnp.inf, logits)


def _divisors(decoding: Decoding) -> Float[Array, " lengths"]:
    """length ** length_penalty for every length; a table rounds alike wherever it is used."""
    lengths = np.maximum(np.arange(decoding.max_tokens + 1), 1)
    return jnp.asarray(lengths ** float(decoding.length_penalty), jnp.float32)


def _best(hypotheses: Generated, number: int) -> Generated:
    """The best of the hypotheses on axis 1, best first; of equal ones the first."""
    if hypotheses.scores.shape[1] == 1:
        return hypotheses
    scores, order = top_k_rows(hypotheses.scores, number)
    tokens = jnp.take_along_axis(hypotheses.tokens, order[:, :, None], axis=1)
    return Generated(tokens, jnp.take_along_axis(hypotheses.lengths, order, axis=1), scores)
