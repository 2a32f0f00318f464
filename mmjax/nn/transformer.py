"""The one Transformer: ViT, CLIP's text tower, BERT, GPT and Llama, CoCa, ALBEF and the Q-Former are settings of it."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from mmjax.nn import attention
from mmjax.nn.block import Block, LayerInputs, Memory, RepeatedBlockGroup
from mmjax.nn.config import BlockConfig, block_config
from mmjax.nn.kv_cache import Cache, new_cache, spec_of_new_tokens
from mmjax.nn.layer_loop import looped_layers, loops, run_layers
from mmjax.nn.rotary import Rotation, rotation_of
from mmjax.parallel.mesh import shard_activation, traced_platform

NORMS = ("pre", "post")


class Output(NamedTuple):
    """Output of a Transformer: the last layer's tokens; on request, else None, every layer's and the cache."""

    tokens: Float[Array, "B N D"]
    layers: Float[Array, "depth B N D"] | None = None
    cache: Cache | None = None

    @property
    def kept_cache(self) -> Cache:
        """The cache of a call with a `cache` or `slots`.

        Raises:
          ValueError: the call had neither.
        """
        if self.cache is None:
            raise ValueError("nothing was cached: neither a cache nor slots were given")
        return self.cache


class _Stack(NamedTuple):
    """Layers of one kind.

    Attributes:
      name: of the stack in a cache.
      module: one layer, or one group of layers.
      layers: number and depth fraction of each layer, leaves [count, ...].
      count: how often the module is run.
    """

    name: str
    module: nn.Module
    layers: Any
    count: int


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
      remat: a name in `REMAT_POLICIES`; `auto`, which the trainer replaces by one of them, is `none`.
      remat_keep: how many of the last layers of each stack keep everything all the same.
      dropout: rate on all residual branches.
      drop_path: stochastic-depth rate of the last layer, growing linearly from 0 at the first.
      dtype: compute type; parameters stay float32.
      attention_impl: kernel of self-attention, `xla`, `pallas` or `cudnn`; for the latter an odd number of tokens is
        padded to an even one. Cross-attention always runs on XLA's.
      norm: `pre` or `post` (BERT), see `Block`. Neither includes a norm after the last layer.
      qk_norm: norms of queries and keys.
      key_bias: keys have a bias.
      cross_every: every k-th layer from `cross_from` on has cross-attention; 0 for none.
      cross_from: the first layer with cross-attention.
      cross_mlp: see `Block` (CoCa's decoder).
      block: what a layer has otherwise than CLIP's: a `BlockConfig`, or its fields; None for nothing.
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
    attention_impl: attention.Kernel = "xla"
    norm: str = "pre"
    qk_norm: bool = False
    key_bias: bool = True
    cross_every: int = 0
    cross_from: int = 0
    cross_mlp: bool = False
    block: BlockConfig | Mapping[str, Any] | None = None

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
        positions: Array | None = None,
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
          positions: with `block.rope`, of each token, [b, N] along one axis or [b, N, axes]; b is 1 or B. None for 0,
            1, ..., where there is no `cache`.

        Raises:
          ValueError: settings that contradict each other.
        """
        self._check(memory, cache, segments, positions)
        length, width = x.shape[1:]
        rotation = self._rotation(positions, length, width)
        if cache is None:
            padded = attention.padded_length(length, self.attention_impl)
            x, spec, segments = _pad_to(padded, x, spec, segments)
            if rotation is not None and padded > length:
                rotation = Rotation(*(jnp.pad(part, ((0, 0), (0, padded - length), (0, 0))) for part in rotation))
        else:
            spec, memory = spec_of_new_tokens(cache, spec, x), Memory(None, cache.memory_valid)
        tokens, valid = (None, None) if memory is None else memory
        index = None if cache is None else cache.index
        inputs = LayerInputs(spec, keys, tokens, attention.AttentionSpec(valid=valid), index, rotation=rotation)

        layer_caches, outputs = {}, []
        for stack in self._stacks(width, segments):
            # Caches and outputs of every layer are made on request only: they would live until the end.
            if self._is_lifted(slots, cache):
                cached = None if cache is None else cache.layers[stack.name]
                keep_caches = bool(slots) or cache is not None
                x, (new, output) = self._run_lifted(stack, x, cached, inputs, keep_caches, intermediates)
            else:
                new = None
                x, output = self._run_pure(stack, x, inputs, intermediates, chosen)
            layer_caches[stack.name] = new
            if output is not None:
                outputs.append(output.reshape(-1, *x.shape))

        if chosen is not None and x.shape[1] > 1:
            x = attention.take_tokens(x, chosen)
        tokens = shard_activation(x)[:, :length]
        layers = jnp.concatenate(outputs)[:, :, :length] if intermediates else None
        if cache is not None:
            cache = cache.replace(layers=layer_caches, valid=spec.valid, index=cache.index + length)
        elif slots:
            cache = new_cache(layer_caches, spec, valid, (x.shape[0], x.shape[1]), length, slots)
        return Output(tokens, layers, cache)

    def _rotation(self, positions, length: int, width: int) -> Rotation | None:
        """What turns the tokens' queries and keys, computed once for all layers."""
        block = block_config(self.block)
        if block.rope == "none":
            return None
        positions = jnp.arange(length)[None] if positions is None else positions
        return rotation_of(positions, block.head_dim or width // self.heads, block.rope_theta)

    def _check(self, memory, cache, segments, positions):
        block = block_config(self.block)
        if block != BlockConfig() and (self.cross_every or segments is not None):
            raise ValueError("layers with cross-attention, or of several segments, are as CLIP's: set block=None")
        if block.res_post_norm and self.norm == "post":
            raise ValueError("block.res_post_norm=True needs norm='pre'")
        if block.kv_heads and self.heads % block.kv_heads:
            raise ValueError(f"block.kv_heads={block.kv_heads} does not divide heads={self.heads}")
        if block.rope == "none" and positions is not None:
            raise ValueError("positions are of block.rope, which is 'none'")
        if block.rope != "none" and positions is None and cache is not None:
            raise ValueError("behind a cache, block.rope needs the new tokens' positions")
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

    def _stacks(self, width: int, segments: tuple[int, ...] | None) -> list[_Stack]:
        """The layers without cross-attention that come first, and those after them, in groups of `cross_every`."""
        numbers = jnp.arange(self.depth)
        layers = (numbers, numbers / max(1, self.depth - 1))
        names = ("heads", "mlp_dim", "activation", "norm_eps", "dropout", "drop_path", "dtype", "attention_impl")
        settings = {name: getattr(self, name) for name in (*names, "norm", "qk_norm", "key_bias", "cross_mlp")}
        settings["block"] = block_config(self.block)
        # OpenAI CLIP's initialisation: residual branches shrink with depth.
        std = width**-0.5 * (2 * self.depth) ** -0.5
        make = functools.partial(Block, **settings, out_std=std, segments=segments)
        plain = self.cross_from if self.cross_every else self.depth
        stacks = []
        if plain:
            first = tuple(leaf[:plain] for leaf in layers)
            stacks.append(_Stack("layers", make(cross=False, name="layers"), first, plain))
        if plain == self.depth:
            return stacks
        last = tuple(leaf[plain:] for leaf in layers)
        if self.cross_every > 1:
            blocks = tuple(functools.partial(make, cross=i == 0) for i in range(self.cross_every))
            module = RepeatedBlockGroup(blocks, name="cross_layers")
            last = tuple(leaf.reshape(-1, self.cross_every) for leaf in last)
        else:
            # A stack that is all of one kind has one name.
            module = make(cross=True, name="cross_layers" if plain else "layers")
        return [*stacks, _Stack("cross_layers", module, last, len(last[0]))]

    def _is_lifted(self, slots: int, cache: Cache | None) -> bool:
        """Whether flax has to see the layers: they make parameters, show their attention, or keep caches."""
        return self.is_initializing() or self.is_mutable_collection("intermediates") or bool(slots) or cache is not None

    def _run_pure(self, stack, x, inputs, intermediates, chosen):
        """Runs one stack of layers as pure functions of their parameters: (x, outputs of every layer or None)."""
        params, module = self.get_variable("params", stack.module.name), stack.module.copy(name=None, parent=None)

        def run(inputs, params, layer, x):
            x, out = module.apply({"params": params}, x, layer, None, inputs)
            output = out[1] if isinstance(module, RepeatedBlockGroup) else x
            return x, output if intermediates else None

        differing = max(self.remat_keep, int(chosen is not None and self._can_choose()))
        looped = looped_layers(self.scan, traced_platform(), stack.count, self.remat, differing)
        last = None
        if chosen is not None and looped < stack.count and self._can_choose():
            last = functools.partial(run, inputs._replace(chosen=chosen))
        return run_layers(
            functools.partial(run, inputs),
            params,
            stack.layers,
            x,
            looped=looped,
            remat=self.remat,
            remat_keep=self.remat_keep,
            last=last,
        )

    def _can_choose(self) -> bool:
        """Whether the last layer can be computed for one token of each example."""
        return self.norm == "pre" and not self.cross_every

    def _run_lifted(self, stack, x, cached, inputs, keep_caches, intermediates):
        """Runs one stack of layers under flax's eyes: (x, (their caches or None, outputs of every layer or None))."""

        def body(module, x, layer, cache, inputs):
            x, out = module(x, layer, cache, inputs)
            cache, output = out if isinstance(module, RepeatedBlockGroup) else (out, x)
            return x, (cache if keep_caches else None, output if intermediates else None)

        axes: dict[str, Any] = {"in_axes": (0, 0, nn.broadcast)}  # flax takes trees of axes, and types none
        run = nn.scan(
            body,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            **axes,
            length=stack.count,
            unroll=1 if loops(self.scan, traced_platform()) else stack.count,
        )
        return run(stack.module, x, stack.layers, cached, inputs)


def _pad_to(
    length: int, x: Float[Array, "B N D"], spec: attention.AttentionSpec, segments: tuple[int, ...] | None
) -> tuple[Float[Array, "B M D"], attention.AttentionSpec, tuple[int, ...] | None]:
    """Appends tokens of zeros, which no token sees, up to a length; they belong to the last segment."""
    real = x.shape[1]
    more = length - real
    if not more:
        return x, spec, segments
    if segments is not None:
        segments = (*segments[:-1], segments[-1] + more)
    return jnp.pad(x, ((0, 0), (0, more), (0, 0))), spec.pad_to(length, real), segments
