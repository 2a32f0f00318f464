"""Fusion of tokens: cross-attention, a single stream, and bottlenecks. See `pooled` for how they are called."""

from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key

from mmjax.errors import UserError, validate_choice
from mmjax.models.encoders import Encoded
from mmjax.models.fusion.pooled import Layered, Modality, prepare
from mmjax.nn import attention, layers
from mmjax.nn.layers import add_parameter, broadcast_parameter
from mmjax.nn.transformer import Memory


class _OfTokens(Layered, kw_only=True):
    def embedded(self, modalities: Mapping[str, Modality]) -> dict[str, Float[Array, "B N D"]]:
        """Every modality's tokens at width D, each with its modality's type embedding."""
        types = self.learned("type_embedding", len(modalities))
        return {
            name: add_parameter(self.projected(name, x.tokens), types[index])
            for index, (name, x) in enumerate(modalities.items())
        }


class Cross(_OfTokens, kw_only=True):
    """The tokens of one modality look at the tokens of all others, in every layer between attention and MLP.

    Where that modality is absent, one learned token looks in its place.

    Parameters: `projection_NAME`, `type_embedding` [M, D], `absent` [D], `transformer`, `norm`.

    Attributes:
      query: name of the modality whose tokens look.
    """

    query: str

    @nn.compact
    def __call__(
        self, encoded: Mapping[str, Encoded], present: Bool[Array, "B M"], keys: Key[Array, " B"] | None = None
    ) -> Encoded:
        """The tokens of the modality `query`.

        Raises:
          UserError: there is no such modality, or no other one.
        """
        modalities, available = prepare(encoded, present)
        validate_choice("model.fusion.query", self.query, modalities)
        if len(modalities) == 1:
            raise UserError(
                f"model.fusion.query={self.query!r} is the only modality: it has nothing to look at; add another one"
            )
        x = self.embedded(modalities)
        others = [name for name in modalities if name != self.query]
        memory = Memory(
            jnp.concatenate([x[name] for name in others], axis=1),
            jnp.concatenate([modalities[name].valid for name in others], axis=1),
        )
        looks, valid = x[self.query], modalities[self.query].valid
        first = jnp.arange(looks.shape[1]) == 0
        lacks = ~available[:, list(modalities).index(self.query), None] & first
        looks = jnp.where(
            lacks[..., None], broadcast_parameter(self.learned("absent"), looks.shape, looks.dtype), looks
        )
        valid = valid | lacks
        spec = attention.AttentionSpec(valid=valid)
        return Encoded(
            self.normed(self.make_transformer(cross_every=1)(looks, spec, keys, memory=memory).tokens), valid
        )


class Joint(_OfTokens, kw_only=True):
    """All modalities' tokens, behind a class token, through one transformer, as in ViLT (arXiv:2102.03334).

    Parameters: `projection_NAME`, `type_embedding` [M, D], `class_token` [D], `transformer`, `norm`.
    """

    head_pool: ClassVar[str] = "cls"

    @nn.compact
    def __call__(
        self, encoded: Mapping[str, Encoded], present: Bool[Array, "B M"], keys: Key[Array, " B"] | None = None
    ) -> Encoded:
        """The class token, then the tokens of each modality in sorted order of name."""
        modalities, available = prepare(encoded, present)
        first = broadcast_parameter(self.learned("class_token"), (len(available), 1, self.width), self.dtype)
        x = jnp.concatenate([first, *self.embedded(modalities).values()], axis=1)
        always = jnp.ones((len(available), 1), bool)
        valid = jnp.concatenate([always, *(tokens.valid for tokens in modalities.values())], axis=1)
        return Encoded(
            self.normed(self.make_transformer()(x, attention.AttentionSpec(valid=valid), keys).tokens), valid
        )


class Bottleneck(_OfTokens, kw_only=True):
    """Modalities that exchange what they know through a few tokens (MBT, arXiv:2107.00135).

    Each modality has layers of its own and a class token. From layer `fusion_layer` on, its layer also runs the
    bottleneck tokens, and the next layer's are the mean of those of the modalities that are present.
    The class tokens are the result; a linear head on their mean gives the mean of their logits, as published.

    Parameters: `projection_NAME`, `type_embedding` [M, D], `class_token` [M, D], `bottleneck` [bottlenecks, D],
    `unimodal_NAME` (the layers before `fusion_layer`), `layer{i}_NAME` (each of the others), `norm`.

    Attributes:
      fusion_layer: the first of the `depth` layers that exchanges.
      bottlenecks: number of tokens.
      drop_path: of the layers before `fusion_layer`; the others have none.
    """

    depth: int = 2
    fusion_layer: int = 0
    bottlenecks: int = 4

    @nn.compact
    def __call__(
        self, encoded: Mapping[str, Encoded], present: Bool[Array, "B M"], keys: Key[Array, " B"] | None = None
    ) -> Encoded:
        """The class token of each modality in sorted order of name, valid where it is present.

        Raises:
          UserError: too few layers for anything to be exchanged.
        """
        if not 0 <= self.fusion_layer <= self.depth - 2:
            raise UserError(
                f"model.fusion.fusion_layer={self.fusion_layer} must be at least 0 and model.fusion.depth={self.depth}"
                " larger by 2 or more: what one layer writes to the bottlenecks, the next one reads"
            )
        modalities, available = prepare(encoded, present)
        batch, count, mask = len(available), self.bottlenecks, available[:, :, None, None]
        first, x, valid = self.learned("class_token", len(modalities)), {}, {}
        for index, (name, tokens) in enumerate(self.embedded(modalities).items()):
            class_token = broadcast_parameter(first[index], (batch, 1, self.width), self.dtype)
            x[name] = jnp.concatenate([class_token, tokens], axis=1)
            valid[name] = jnp.concatenate([available[:, index, None], modalities[name].valid], axis=1)
            if self.fusion_layer:
                stack = self.make_transformer(f"unimodal_{name}", depth=self.fusion_layer)
                spec = attention.AttentionSpec(valid=valid[name])
                x[name] = stack(x[name], spec, layers.fold_keys(keys, index)).tokens
        shared = broadcast_parameter(self.learned("bottleneck", count), (batch, count, self.width), self.dtype)
        for layer in range(self.fusion_layer, self.depth):
            seen = []
            for index, name in enumerate(modalities):
                both = jnp.concatenate([x[name], shared], axis=1)
                spec = attention.AttentionSpec(valid=jnp.pad(valid[name], ((0, 0), (0, count)), constant_values=True))
                noise = layers.fold_keys(keys, (layer + 1) * len(modalities) + index)
                both = self.make_transformer(f"layer{layer}_{name}", depth=1)(both, spec, noise).tokens
                x[name] = both[:, :-count]
                seen.append(both[:, -count:])
            mean = jnp.where(mask, jnp.stack(seen, axis=1), 0).sum(axis=1)
            shared = mean / jnp.maximum(mask.sum(axis=1), 1).astype(mean.dtype)
        return Encoded(self.normed(jnp.stack([tokens[:, 0] for tokens in x.values()], axis=1)), available)
