"""Image-text matching (ITM): hard negatives drawn from the contrastive similarities, and the two-way loss.

Of every pair the fusion sees three examples: the pair, the image with a negative text, a negative image with
the text.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int32, Key, Shaped, UInt

from mmjax.objectives import tiled_logits
from mmjax.objectives.contrastive import Images
from mmjax.objectives.cross_entropy import cross_entropy
from mmjax.parallel import ring
from mmjax.parallel.mesh import BATCH_AXES, batch_devices
from mmjax.parallel.sharded_gather import SCOPES
from mmjax.utils.random_streams import NegativeStream

MATCH = 1  # the class of a pair that belongs together, as in ALBEF


class HardNegatives(NamedTuple):
    """One negative of each kind for every row, by number in the batch.

    Attributes:
      image_for_text: an image that is none of the text's.
      text_for_image: a text that is none of the image's.
      has_negative: False where all others share the row's id; it then stands for itself, and its terms must not count.
    """

    image_for_text: Int32[Array, " B"]
    text_for_image: Int32[Array, " B"]
    has_negative: Bool[Array, " B"]


def hard_negatives(
    image: Images,
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    ids: UInt[Array, "B W"] | None,
    keys: Key[Array, " B"],
    *,
    mesh: Mesh | None = None,
    scope: str = "global",
    block_size: int = 1024,
    precision: str = "highest",
) -> HardNegatives:
    """Draws negatives, for each text an image and for each image a text, with probability softmax(scale * similarity).

    As ALBEF (arXiv:2107.07651) does from all that a device has, but over the whole batch if wanted, and among other ids
    only. The largest logit with Gumbel noise is kept while blocks of the other side travel around the devices: no more
    than one tile of logits is alive. The noise of (row, column) depends on the row's key and the column's number alone,
    so that the draw is the same on any mesh and for any block size, but for the rounding of similarities. No gradient
    passes.

    Args:
      image, text: unit rows; of several vectors of an image the one most similar to the text counts.
      scale: the multiplier of similarities.
      ids: rows with equal ids are never negatives of one another; None when every row is its own class.
      keys: one per row, used for nothing else.
      mesh: the devices that share the rows; None for one device.
      scope: `global`, all rows; `local`, those that are on the same device along `data` and `fsdp`.
      block_size: rows and columns of a tile of logits at most.
      precision: of the matrix products.

    Raises:
      ValueError: an unknown scope, a block size below 1, or rows that do not divide over `data` and `fsdp`.
    """
    batch = len(text)
    if scope not in SCOPES:
        raise ValueError(f"scope={scope!r} is not one of {SCOPES}")
    if block_size < 1:
        raise ValueError(f"block_size={block_size} must be at least 1")
    if mesh is not None and batch % batch_devices(mesh):
        raise ValueError(f"{batch} rows do not divide over {batch_devices(mesh)} devices")
    if mesh is None:
        axes = ring_axes = ()
    else:
        # Rows over `tensor` too where they divide, so that none does its neighbour's work.
        axes = tuple(BATCH_AXES) if batch % mesh.size else tuple(mesh.axis_names)
        ring_axes = axes if scope == "global" else tuple(axis for axis in axes if axis not in BATCH_AXES)
    search = _Search(mesh, ring_axes, block_size, precision, jax.random.key_impl(keys))
    image, text, scale = jax.lax.stop_gradient((image.astype(jnp.float32), text.astype(jnp.float32), scale))
    numbers = jnp.arange(batch, dtype=jnp.int32)
    ids = numbers[:, None].astype(jnp.uint32) if ids is None else ids
    image_words, text_words = (
        jax.random.key_data(jax.vmap(jax.random.fold_in, (0, None))(keys, stream)) for stream in NegativeStream
    )
    args = (image, text, image_words, text_words, ids, numbers)
    if mesh is None:
        return search.hard_negatives(*args, scale)
    spec = PartitionSpec(axes)
    in_specs = (spec,) * len(args) + (PartitionSpec(),)
    return ring.per_device(search.hard_negatives, mesh, in_specs, spec)(*args, scale)


class _Search(NamedTuple):
    """Search for the largest noisy logit of each row, while blocks of columns travel around the devices.

    Attributes:
      mesh: None for one device.
      ring_axes: axes of the mesh that blocks travel along.
      block_size, precision: as in `hard_negatives`.
      key_impl: of the rows' random keys.
    """

    mesh: Mesh | None
    ring_axes: tuple[str, ...]
    block_size: int
    precision: str
    key_impl: Any

    def hard_negatives(self, image, text, image_words, text_words, ids, numbers, scale) -> HardNegatives:
        """Negatives of one device's rows; random keys come as words, ids and numbers are those of images and texts."""
        image_for_text, _ = self._draw(text, image, text_words, ids, numbers, scale)
        text_for_image, has_negative = self._draw(image, text, image_words, ids, numbers, scale)
        return HardNegatives(image_for_text, text_for_image, has_negative)

    def _draw(self, rows, columns, words, ids, numbers, scale):
        """Number of the column that each row draws, and whether there is any that it may."""
        rows = (rows, ids, jax.random.wrap_key_data(words, impl=self.key_impl))
        best, block = (jnp.full(len(numbers), tiled_logits.NEG_INF), numbers), (columns, ids, numbers)
        mesh = self.mesh
        devices = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in self.ring_axes)
        if mesh is None or devices == 1:
            best = self._search_block(rows, block, best, scale)
        else:

            def search_and_pass_on(_, state):
                best, block = state
                return self._search_block(rows, block, best, scale), ring.ppermute_ring(block, mesh, self.ring_axes)

            best, _ = jax.lax.fori_loop(0, devices, search_and_pass_on, (best, block))
        return best[1], best[0] > tiled_logits.NEG_INF

    def _search_block(self, rows, block, best, scale):
        """The largest noisy logit of each row so far, (logit, column's number), once a block of columns is searched."""

        def search_tile(best, row, column, height, width, fresh):
            some, others = tiled_logits.take(rows, row, height), tiled_logits.take(block, column, width)
            new = _best(some, others, scale, self.precision)
            return tiled_logits.put(best, _better(tiled_logits.take(best, row, height), new), row)

        return tiled_logits.over_tiles(len(best[0]), len(block[2]), self.block_size, search_tile, best)


def _best(rows: Any, columns: Any, scale: Array, precision: str) -> tuple[Array, Array]:
    """The largest noisy logit of each row of a tile, and its column's number."""
    x, row_ids, keys = rows
    y, column_ids, numbers = columns
    logits = scale * _similarity(x, y, precision) + _gumbel(keys, numbers)
    logits = jnp.where(tiled_logits.positives(row_ids, column_ids), tiled_logits.NEG_INF, logits)
    return jnp.max(logits, axis=1), numbers[jnp.argmax(logits, axis=1)]


def _better(old: tuple[Array, Array], new: tuple[Array, Array]) -> tuple[Array, Array]:
    """The larger one, of equal ones the lower number, whatever the order they come in."""
    take = (new[0] > old[0]) | ((new[0] == old[0]) & (new[0] > tiled_logits.NEG_INF) & (new[1] < old[1]))
    return jnp.where(take, new[0], old[0]), jnp.where(take, new[1], old[1])


def _similarity(x: Array, y: Array, precision: str) -> tiled_logits.Tile:
    """Inner products; either side may have several vectors a row, of which the most similar one counts."""
    if y.ndim == 3:
        return _similarity(y, x, precision).T
    dot = lambda rows: jnp.einsum("rE,cE->rc", rows, y, precision=precision)
    if x.ndim == 2:
        return dot(x)
    # One by one: not a tile for each of them.
    return jax.lax.fori_loop(1, x.shape[1], lambda q, best: jnp.maximum(best, dot(x[:, q])), dot(x[:, 0]))


def _gumbel(keys: Key[Array, " R"], numbers: Int32[Array, " C"]) -> tiled_logits.Tile:
    """Standard Gumbel noise, a function of (key, number) alone.

    A key folded with a number is a hash of both: its words are the random bits. The negated logarithm of an exponential
    variate, made so that the small ones, which win, are the finely resolved ones.
    """
    words = lambda key: jax.vmap(lambda n: jax.random.key_data(jax.random.fold_in(key, n))[0])(numbers)
    uniform = (jax.vmap(words)(keys).astype(jnp.float32) + 0.5) * 2.0**-32
    return -jnp.log(-jnp.log1p(-jnp.minimum(uniform, 1.0 - 2.0**-24)))


def itm_targets(has_negative: Bool[Array, " B"]) -> tuple[Int32[Array, "3*B"], Float[Array, "3*B"]]:
    """Labels (1: they belong together) and weights: of all pairs, then all with another text, all with another image.

    A row without a negative counts as a pair only.
    """
    labels = jnp.zeros((3, len(has_negative)), jnp.int32).at[0].set(MATCH)
    weights = jnp.stack([jnp.ones_like(has_negative), has_negative, has_negative])
    return labels.reshape(-1), weights.reshape(-1).astype(jnp.float32)


def itm_loss(
    logits: Float[Array, "N 2"], labels: Int32[Array, " N"], weights: Float[Array, " N"]
) -> tuple[Float[Array, ""], dict[str, Shaped[Array, ""]]]:
    """Two-way cross-entropy, the weighted mean over examples (0 where no weight is above 0).

    Args:
      logits: of no match and match.
      labels, weights: see `itm_targets`.

    Returns:
      The loss in nats and metrics: `itm_accuracy` in [0, 1], with the same weights.
    """
    total = weights.sum()
    mean = lambda x: jnp.sum(weights * x) / jnp.where(total > 0, total, 1.0)
    hits = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return mean(cross_entropy(logits, labels)), {"itm_accuracy": mean(hits)}
