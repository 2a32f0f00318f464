"""The one Transformer: ViT, CLIP's text tower, BERT, GPT's decoder, CoCa, ALBEF and the Q-Former are settings of it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Key

from mmjax.nn import attention, dropout, layer_loop
from mmjax.nn.mlp import Mlp
from mmjax.nn.norms import layer_norm
from mmjax.parallel.activation_sharding import row_major, shard_activation, traced_platform
from mmjax.parallel.gather_rows import take_rows
from mmjax.utils.random_streams import BranchStream

NORMS = ("pre", "post")


class Memory(NamedTuple):
    """What cross-attention looks at: tokens [B, M, Dm] and which of them are real ([B, M]; None when all are)."""

    tokens: Float[Array, "B M Dm"]
    valid: Bool[Array, "B M"] | None = None


@struct.dataclass
class Cache:
    """Keys and values of what a causal (or prefix) transformer has read, with room for more.

    Attributes:
      layers: of every stack of layers, by name; `KeysValues` with leaves [depth, B, ...].
      valid: [B, S] bool, True where a slot holds a real token.
      index: slots used; the next token goes there, for all examples alike.
      memory_valid: [B, M] bool, of the memory that cross-attention looks at; None when all of it is real.
    """

    layers: Any
    valid: Bool[Array, "B S"]
    index: Int[Array, ""]
    memory_valid: Bool[Array, "B M"] | None = None

    def take(self, rows: Int[Array, " R"], examples: int | None = None) -> "Cache":
        """The cache of these rows, which may repeat; `examples` as in `take_rows`."""
        return self.replace(
            layers=take_rows(self.layers, rows, 1, examples),
            valid=take_rows(self.valid, rows, 0, examples),
            memory_valid=take_rows(self.memory_valid, rows, 0, examples),
        )

    def without_memory(self) -> "Cache":
        """The cache without the memory's keys and values, for when no more tokens look at it (see `segments`)."""
        strip = lambda state: state._replace(memory=None)
        layers = jax.tree.map(strip, self.layers, is_leaf=lambda x: isinstance(x, _State))
        return self.replace(layers=layers, memory_valid=None)

    @property
    def counts(self) -> Int[Array, " B"]:
        """Real tokens read so far: the position of the next one."""
        return self.valid.sum(axis=1)


class Output(NamedTuple):
    """What a Transformer returns: the last layer's tokens; on request, else None, every layer's and the cache."""

    tokens: Float[Array, "B N D"]
    layers: Float[Array, "depth B N D"] | None = None
    cache: Cache | None = None


class _State(NamedTuple):
    """One layer's part of the cache: of its self-attention and its cross-attention (None where it has none)."""

    own: attention.KVCache
    memory: attention.KVCache | None


class Block(nn.Module):
    """A residual block.

    Pre-norm: `x + attention(norm1(x))`, then `x + mlp(norm2(x))`; post-norm: `norm1(x + attention(x))`, then
    `norm2(x + mlp(x))`. Cross-attention (`norm_cross`) stands between the two; with `cross_mlp` it comes after them,
    with a norm of the memory and an MLP of its own. Where there are several `segments`, each has its own last norm and
    MLP, and cross-attention is for the first one alone.
    """

    heads: int
    mlp_dim: int
    activation: str
    norm_eps: float
    out_std: float
    dropout: float
    drop_path: float
    dtype: DTypeLike
    attention_impl: str
    norm: str
    qk_norm: bool
    cross: bool
    cross_mlp: bool
    segments: tuple[int, ...] | None

    @nn.compact
    def __call__(self, x, layer, state, spec, keys, memory, memory_spec, index, chosen=None):
        """One layer in the form `nn.scan` wants: carry and per-layer input first.

        Args:
          x: [B, N, D].
          layer: (number, depth fraction in [0, 1]) of this layer; the drop-path rate grows linearly with depth.
          state: the layer's part of a cache, or None.
          spec, memory_spec: who attends to whom, among the tokens and in the memory.
          keys: [B] per-example keys, or None.
          memory: [B, M, Dm], or None where there is none or its keys and values are cached.
          index: slot of the cache that the first token goes to.
          chosen: [B] the one token of each example that is wanted; None for all. The others are only attended to.

        Returns:
          The tokens ([B, 1, D] where one is `chosen`), and the layer's `_State`.
        """
        number, depth_fraction = layer
        count = x.shape[1]
        keys = dropout.fold_keys(keys, number)
        own_noise = [dropout.fold_keys(keys, branch) for branch in range(8)]
        pre = self.norm == "pre"

        def residual(x, function, norm, branch, rows=slice(None), segment=0):
            """`rows` are the tokens that have this branch; each segment has noise of its own."""
            noise = own_noise if not segment else [dropout.fold_keys(key, segment) for key in own_noise]
            normed = lambda y: layer_norm(self.norm_eps, self.dtype, norm)(y)
            y = function(normed(x[:, rows]) if pre else x[:, rows])
            y = dropout.dropout(shard_activation(y), self.dropout, noise[branch], chosen, count)
            if self.drop_path:
                y = dropout.drop_path(y, self.drop_path * depth_fraction, noise[branch + 1])
            if rows == slice(None):
                x = x if x.shape == y.shape else attention.take_tokens(x, chosen)
                return row_major(x + y) if pre else normed(x + y)
            part = x[:, rows] + y if pre else normed(x[:, rows] + y)
            return jnp.concatenate([x[:, : rows.start], part, x[:, rows.stop :]], axis=1)

        def attend(y):
            nonlocal own
            module = attention.SelfAttention(
                self.heads, self.out_std, self.dtype, self.attention_impl, self.qk_norm, name="attention"
            )
            y, own = module(y, spec, None if state is None else state.own, index, chosen)
            return y

        def look(y):
            nonlocal seen
            module = attention.CrossAttention(
                self.heads, self.out_std, self.dtype, qk_norm=self.qk_norm, name="cross_attention"
            )
            source = memory
            if self.cross_mlp and memory is not None:
                source = layer_norm(self.norm_eps, self.dtype, "norm_memory")(memory)
            y, seen = module(y, source, memory_spec, None if state is None else state.memory)
            return y

        mlp = lambda name: Mlp(self.mlp_dim, self.activation, self.out_std, self.dtype, name=name)
        own, seen = None, None if state is None else state.memory
        first = slice(None) if self.segments is None else slice(0, self.segments[0])
        crosses = self.cross and (self.segments is None or self.segments[0] > 0)
        x = residual(row_major(shard_activation(x)), attend, "norm1", BranchStream.ATTENTION)
        if crosses and not self.cross_mlp:
            x = residual(x, look, "norm_cross", BranchStream.CROSS_ATTENTION, first)
        if self.segments is None:
            x = residual(x, mlp("mlp"), "norm2", BranchStream.MLP)
        start = 0
        for i, length in enumerate(self.segments or ()):
            if length:
                names = ("mlp", "norm2") if i == 0 else (f"segment{i}_mlp", f"segment{i}_norm2")
                x = residual(x, mlp(names[0]), names[1], BranchStream.MLP, slice(start, start + length), i)
            start += length
        if crosses and self.cross_mlp:
            x = residual(x, look, "norm_cross", BranchStream.CROSS_ATTENTION, first)
            x = residual(x, mlp("cross_mlp"), "norm_cross_mlp", BranchStream.CROSS_MLP, first)
        return x, _State(own, seen)


class RepeatedBlockGroup(nn.Module):
    """Layers that repeat together: one with cross-attention, then those without."""

    blocks: tuple[Callable[..., nn.Module], ...]  # make them, but for their names

    @nn.compact
    def __call__(self, x, layers, states, *rest):
        outputs, new = [], []
        for i, block in enumerate(self.blocks):
            layer = tuple(leaf[i] for leaf in layers)
            x, state = block(name=f"block{i}")(x, layer, None if states is None else states[i], *rest)
            outputs.append(x)
            new.append(state)
        return x, (tuple(new), jnp.stack(outputs))


class Transformer(nn.Module):
    """A stack of blocks.

    Layer parameters are stored stacked, [depth, ...], scanned or not: checkpoints, sharding rules and weight files do
    not depend on `scan`. Unrolled layers (`scan=False`) compile slower; on GPUs and TPUs they run in two thirds of the
    time. Where only some layers have cross-attention there are two stacks: `layers`, those before `cross_from`, and
    `cross_layers`, the others (with `cross_every` k > 1 in units of `block0`, which has it, to `block{k-1}`).

    Attributes:
      depth, heads, mlp_dim: number of layers, attention heads, hidden units of the MLP.
      activation: a name in `ACTIVATIONS`.
      norm_eps: layer-norm epsilon.
      scan: whether one compiled layer is looped over the stack. `auto` loops on CPUs, where compiling takes longer than
        it saves, where it is not known what is traced for, and on TPUs over layers with `remat=full`.
      remat: a name in `layer_loop.REMAT_POLICIES`; `auto`, which the trainer replaces by one of them, is `none`.
      remat_keep: how many of the last layers of each stack keep everything all the same.
      dropout: rate on all residual branches.
      drop_path: stochastic-depth rate of the last layer, growing linearly from 0 at the first.
      dtype: compute type; parameters stay float32.
      attention_impl: kernel of self-attention, `xla`, `pallas` or `cudnn`; for the latter an odd number of tokens is
        filled up to an even one. Cross-attention always runs on XLA's.
      norm: `pre` or `post` (BERT), see `Block`. Neither includes a norm after the last layer.
      qk_norm: norms of queries and keys.
      cross_every: every k-th layer from `cross_from` on has cross-attention; 0 for none.
      cross_from: the first layer with cross-attention.
      cross_mlp: see `Block` (CoCa's decoder).
    """

    depth: int
    heads: int
    mlp_dim: int
    activation: str = "gelu"
    norm_eps: float = 1e-5
    scan: bool | str = "auto"
    remat: str = "none"
    remat_keep: int = 0
    dropout: float = 0.0
    drop_path: float = 0.0
    dtype: DTypeLike = jnp.float32
    attention_impl: str = "xla"
    norm: str = "pre"
    qk_norm: bool = False
    cross_every: int = 0
    cross_from: int = 0
    cross_mlp: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N D"],
        spec: attention.AttentionSpec,
        keys: Key[Array, " B"] | None = None,
        *,
        memory: Memory | None = None,
        segments: tuple[int, ...] | None = None,
        cache: Cache | None = None,
        slots: int = 0,
        intermediates: bool = False,
        chosen: Int[Array, " B"] | None = None,
    ) -> Output:
        """Runs the stack.

        Args:
          x: tokens.
          spec: who attends to whom. With a `cache` only its `valid` is read, for the new tokens: they see those in the
            cache and each other causally.
          keys: one an example, for dropout; None turns it off.
          memory: what cross-attention looks at. Not needed with a `cache`, which holds it, nor where the first of the
            `segments`, which alone looks at it, has no tokens.
          segments: numbers of tokens, one after the other, with an MLP each (Q-Former: queries, text); 0 skips one.
          cache: of earlier calls; N tokens are appended to it. There must be room for them.
          slots: tokens that a cache made of this call holds, this call's included; 0 for none.
          intermediates: whether to return every layer's output.
          chosen: the one token of each example that is wanted, where nobody reads the others: the result is [B, 1, D].
            Unrolled, the last layer is computed for it alone; not with `cache`, `slots` or `intermediates`.

        Raises:
          ValueError: settings that contradict each other.
        """
        self._check(memory, cache, segments)
        length, width = x.shape[1:]
        index = new_valid = None
        if cache is not None:
            index = cache.index
            real = jnp.ones(x.shape[:2], bool) if spec.valid is None else spec.valid
            new_valid = jax.lax.dynamic_update_slice_in_dim(cache.valid, real, index, axis=1)
            spec = attention.AttentionSpec(causal=length > 1, valid=new_valid, offset=index)
            memory = Memory(None, cache.memory_valid)
        else:
            x, spec = _pad_to(x, spec, attention.padded_length(length, self.attention_impl))
            if segments is not None and x.shape[1] > length:
                segments = (*segments[:-1], segments[-1] + x.shape[1] - length)
        memory_spec = attention.AttentionSpec(valid=None if memory is None else memory.valid)
        rest = (spec, keys, None if memory is None else memory.tokens, memory_spec, index)

        outputs, states, make = [], {}, self._block(width, segments)
        plain, units, each = self._layout()
        numbers = jnp.arange(self.depth)
        layers = (numbers, numbers / max(1, self.depth - 1))
        for name, count, crossing in (("layers", plain, False), ("cross_layers", units, True)):
            if not count:
                continue
            part = tuple(leaf[plain:] if crossing else leaf[:plain] for leaf in layers)
            if crossing and each > 1:
                module = RepeatedBlockGroup(
                    tuple(functools.partial(make, cross=i == 0) for i in range(each)), name=name
                )
                part = tuple(leaf.reshape(-1, each) for leaf in part)
            else:
                # A stack that is all of one kind has one name.
                module = make(cross=crossing, name=name if plain else "layers")
            # Kept states and outputs of every layer are asked for, not always made: they would live until the end.
            if self._is_lifted(slots, cache):
                x, (state, output) = self._scanned(count, bool(slots) or cache is not None, intermediates)(
                    module, x, part, None if cache is None else cache.layers[name], *rest
                )
            else:
                state = None
                x, output = self._run(module, part, x, rest, intermediates, chosen)
            states[name] = state
            outputs.append(output if output is None or output.ndim == 4 else output.reshape(-1, *output.shape[2:]))
        if chosen is not None and x.shape[1] > 1:
            x = attention.take_tokens(x, chosen)
        tokens = shard_activation(x)[:, :length]
        stacked = jnp.concatenate(outputs)[:, :, :length] if intermediates else None
        if cache is not None:
            made = cache.replace(layers=states, valid=new_valid, index=index + length)
        else:
            made = _new_cache(states, spec, memory, x.shape[:2], length, slots) if slots else None
        return Output(tokens, stacked, made)

    def _check(self, memory, cache, segments):
        if self.norm not in NORMS:
            raise ValueError(f"norm={self.norm!r} is not known; choose one of: {', '.join(NORMS)}")
        looks = bool(self.cross_every) and (segments is None or segments[0] > 0)
        if looks != (memory is not None) and cache is None:
            raise ValueError(f"cross_every={self.cross_every}, but memory is {'not ' * (memory is None)}given")
        if self.cross_mlp and self.norm == "post":
            raise ValueError("cross_mlp=True needs norm='pre'")
        if self.cross_every and (self.depth - self.cross_from) % self.cross_every:
            raise ValueError(
                f"the {self.depth - self.cross_from} layers from cross_from={self.cross_from} on do not divide by"
                f" cross_every={self.cross_every}"
            )

    def _layout(self) -> tuple[int, int, int]:
        """Layers without cross-attention that come first, units after them, and layers of a unit."""
        if not self.cross_every:
            return self.depth, 0, 1
        return self.cross_from, (self.depth - self.cross_from) // self.cross_every, self.cross_every

    def _block(self, width: int, segments: tuple[int, ...] | None) -> Callable[..., nn.Module]:
        """What makes a block, but for `cross` and `name`."""
        return functools.partial(
            Block,
            heads=self.heads,
            mlp_dim=self.mlp_dim,
            activation=self.activation,
            norm_eps=self.norm_eps,
            # OpenAI CLIP's initialisation: residual branches shrink with depth.
            out_std=width**-0.5 * (2 * self.depth) ** -0.5,
            dropout=self.dropout,
            drop_path=self.drop_path,
            dtype=self.dtype,
            attention_impl=self.attention_impl,
            norm=self.norm,
            qk_norm=self.qk_norm,
            cross_mlp=self.cross_mlp,
            segments=segments,
        )

    def _is_lifted(self, slots: int, cache: Cache | None) -> bool:
        """Whether flax has to see the layers: they make parameters, show their attention, or keep states."""
        return self.is_initializing() or self.is_mutable_collection("intermediates") or bool(slots) or cache is not None

    def _run(self, module, part, x, rest, intermediates, chosen):
        """Runs one stack of layers as pure functions of their parameters."""
        params, module = self.get_variable("params", module.name), module.copy(name=None, parent=None)

        def layer(params, number, x, *chosen):
            x, out = module.apply({"params": params}, x, number, None, *rest, *chosen)
            output = out[1] if isinstance(module, RepeatedBlockGroup) else x
            return x, output if intermediates else None

        depth, last = len(part[0]), None
        differing = max(self.remat_keep, int(chosen is not None and self._can_choose()))
        looped = layer_loop.looped_layers(self.scan, traced_platform(), depth, self.remat, differing)
        if chosen is not None and looped < depth and self._can_choose():
            last = lambda params, number, x: layer(params, number, x, chosen)
        return layer_loop.run_layers(
            layer, params, part, x, looped=looped, remat=self.remat, remat_keep=self.remat_keep, last=last
        )

    @property
    def _loops(self) -> bool:
        return layer_loop.loops(self.scan, traced_platform())

    def _can_choose(self) -> bool:
        """Whether the last layer can be computed for one token of each example."""
        return self.norm == "pre" and not self.cross_every

    def _scanned(self, length: int, keep_states: bool, intermediates: bool):
        def body(module, x, layer, state, *rest):
            x, out = module(x, layer, state, *rest)
            state, output = out if isinstance(module, RepeatedBlockGroup) else (out, x)
            return x, (state if keep_states else None, output if intermediates else None)

        return nn.scan(
            body,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, *[nn.broadcast] * 5),
            length=length,
            unroll=1 if self._loops else length,
        )


def _new_cache(
    states: Any, spec: attention.AttentionSpec, memory: Memory | None, shape: tuple[int, int], length: int, slots: int
) -> Cache:
    """Makes room for `slots` tokens behind the `length` first ones."""
    if slots < length:
        raise ValueError(f"slots={slots} are too few for {length} tokens")

    def room(state):
        if not isinstance(state, _State):
            return tuple(room(each) for each in state)
        grow = lambda x: jnp.pad(x[:, :, :length], ((0, 0), (0, 0), (0, slots - length), (0, 0), (0, 0)))
        return _State(attention.KVCache(*map(grow, state.own)), state.memory)

    real = jnp.ones(shape, bool) if spec.valid is None else spec.valid
    valid = jnp.pad(real[:, :length], ((0, 0), (0, slots - length)))
    layers = {name: room(state) for name, state in states.items()}
    return Cache(layers, valid, jnp.asarray(length, jnp.int32), None if memory is None else memory.valid)


def _pad_to(
    x: Float[Array, "B N D"], spec: attention.AttentionSpec, length: int
) -> tuple[Float[Array, "B M D"], attention.AttentionSpec]:
    """Appends tokens of zeros, which no token sees, up to a length."""
    more = length - x.shape[1]
    if not more:
        return x, spec
    return jnp.pad(x, ((0, 0), (0, more), (0, 0))), spec.filled(x.shape[1], more)
