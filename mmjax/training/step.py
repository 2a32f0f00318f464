"""One update: towers (in microbatches), loss over the global batch, gradients, optimizer, check of finiteness."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from mmjax.config.schema import RunConfig
from mmjax.objectives import token_loss
from mmjax.objectives.token_loss import TokenLoss
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.mesh import map_microbatches
from mmjax.training import lora
from mmjax.training.state import TrainState

Batch = dict[str, Any]  # arrays [B, ...], and maybe `text_places` or `text_groups`
Metrics = dict[str, Float[Array, ""]]


@runtime_checkable
class TrainedTask(Protocol):
    """What the trainer sees of a task, such as `mmjax.tasks.Task`.

    Attributes:
      weights: of the objectives, by name.
      needs_rng: whether a step draws at random.
    """

    weights: Mapping[str, float]
    needs_rng: bool

    def encode(self, params: Any, batch: Any, keys: Any, /) -> tuple[Any, Mapping[str, TokenLoss]]:
        """Features of each example for `loss`, and sums of objectives of single examples; may run in microbatches."""
        ...

    def loss(self, params: Any, features: Any, batch: Any, keys: Any, /, *, pieces: int) -> tuple[Any, Metrics]:
        """The weighted sum of the objectives over the whole batch, and metrics."""
        ...

    def clamp_logit_scale(self, params: Any, /) -> Any:
        """The parameters after an update, kept where they may be."""
        ...


def make_train_step(
    task: TrainedTask,
    config: RunConfig,
    tx: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    shardings: TrainState,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Compiles `(state, batch) -> (state, metrics)` for a mesh; the state passed in is donated."""
    pieces = config.microbatch
    total_loss = make_loss(task, pieces, mesh)
    is_frozen = lora.find_frozen(shardings.params, config.optimizer)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        trainable, frozen = split_frozen(state.params, is_frozen)
        keys = example_keys(state.rng, state.step, len(batch["id"])) if task.needs_rng else None

        def objective(trainable):
            return total_loss(lora.scaled(merge_frozen(trainable, frozen), config.optimizer.lora), batch, keys)

        (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(trainable)
        updates, opt_state = tx.update(grads, state.opt_state, trainable)
        params = task.clamp_logit_scale(merge_frozen(optax.apply_updates(trainable, updates), frozen))
        # A frozen parameter stays as it is even outside the constraint, such as a released SigLIP scale above 100.
        params = merge_frozen(split_frozen(params, is_frozen)[0], frozen)
        grad_norm = optax.tree.norm(grads)
        step = state.step + 1
        bad = ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
        new_state = state.replace(
            step=step,
            params=params,
            opt_state=opt_state,
            ema_params=_moving_average(state.ema_params, params, config.ema_decay),
            first_bad_step=jnp.where((state.first_bad_step < 0) & bad, step, state.first_bad_step),
        )
        metrics = metrics | {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
            "first_bad_step": new_state.first_bad_step,
        }
        return new_state, metrics

    replicated = mesh_lib.replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(shardings, mesh_lib.batch_sharding(mesh)),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )


def make_loss(
    task: TrainedTask, pieces: int, mesh: Mesh
) -> Callable[[Any, Batch, Key[Array, " B"] | None], tuple[Array, Metrics]]:
    """Returns `(params, batch, keys) -> (loss, metrics)` with the towers run in `pieces` microbatches.

    The loss sees the features of the whole batch (GradCache, arXiv:2101.06983, with the recomputation left to
    rematerialisation), so the gradient is that of one piece. Losses of single examples (`TokenLoss`) are divided once,
    by the count of the whole batch.
    """

    def total_loss(params, batch, keys):
        encode = lambda rows: task.encode(params, *rows)
        if pieces > 1:
            encode = jax.checkpoint(encode)
        features, additive = map_microbatches(encode, (batch, keys), pieces, mesh)
        loss, metrics = task.loss(params, features, batch, keys, pieces=pieces)
        for name, sums in additive.items():
            value, loss_metrics = token_loss.mean(sums)
            metrics = metrics | loss_metrics | {f"loss_{name}": value}
            loss = loss + task.weights[name] * value
        return loss, metrics

    return total_loss


def split_frozen(params: Any, is_frozen: Any) -> tuple[Any, Any]:
    """Splits a tree into (trainable, frozen), each with None in the other's places; see `find_frozen`."""
    trainable = jax.tree.map(lambda frozen, x: None if frozen else x, is_frozen, params)
    return trainable, jax.tree.map(lambda frozen, x: x if frozen else None, is_frozen, params)


def merge_frozen(trainable: Any, frozen: Any) -> Any:
    """Undoes `split_frozen`."""
    return jax.tree.map(lambda a, b: b if a is None else a, trainable, frozen, is_leaf=lambda x: x is None)


def example_keys(rng: Array, step: Array, count: int) -> Key[Array, " B"]:
    """One key per example, a function of the seed, the step and the row in the global batch alone."""
    key = jax.random.fold_in(jax.random.wrap_key_data(rng), step)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(count))


def _moving_average(average: Any, params: Any, decay: float) -> Any:
    if average is None:
        return None
    # Not decay * a + (1 - decay) * p: rounded to float32 the two weights do not add up to 1, and for a decay of 0.9999
    # parameters that stand still (frozen ones) would drift by 1e-4.
    return jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), average, params)
