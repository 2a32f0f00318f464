"""Synchronisation of videos with their sounds: the objective, the clips that it is computed of, and its fields."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from mmjax.config.schema import RunConfig
from mmjax.data.loading.inputs import InputSpecs
from mmjax.data.loading.shifted_clips import ShiftedClips
from mmjax.errors import UserError
from mmjax.models.towers_config import TowersConfig
from mmjax.nn import layers
from mmjax.objectives import synchronization
from mmjax.objectives.token_loss import TokenLoss
from mmjax.tasks import config_queries, decoders
from mmjax.tasks.objective import BatchFeatures, Objective, Settings
from mmjax.utils.random_streams import ExampleStream

_MOST = 10_000  # frames or windows, far beyond any clip's


def training_specs(config: RunConfig, specs: InputSpecs) -> InputSpecs:
    """How examples of training are prepared: shifted clips for the objective `sync`, else as `specs` say."""
    return clip_specs(config, specs, config.loss.sync_windows) if config.objectives.sync else specs


def clip_specs(config: RunConfig, specs: InputSpecs, windows: int) -> ShiftedClips:
    """Clips of so many windows; `specs` are those of one."""
    return ShiftedClips.of_windows(specs, config.loss.sync_shifts, windows)


def clip_similarities(
    model: Any,
    video: Float[Array, "B V S S C"],
    audio: Float[Array, "B T F"],
    keys: Key[Array, " B"] | None = None,
) -> Float[Array, "B M K"]:
    """Similarities of all windows of clips with the windows of their sound at each shift.

    The towers run on windows that are folded into the batch, one frame apart.

    Args:
      model: of towers, bound to its parameters.
      video: normalised frames.
      audio: spectrograms of the same time and of what the shifts add.
      keys: one an example, for the layers' noise, which is each window's; None for none.
    """
    frames, length = model.video["frames"], model.audio["frames"]
    of_video = _embed(model, "video", video, frames, 1, keys)
    of_audio = _embed(model, "audio", audio, length, length // frames, keys)
    return synchronization.shifted_similarities(of_video, of_audio)


def _embed(
    model: Any, name: str, x: Float[Array, "B T ..."], length: int, step: int, keys: Key[Array, " B"] | None
) -> Float[Array, "B N E"]:
    """Embeds all windows of a length, each so many steps behind the one before it."""
    count = (x.shape[1] - length) // step + 1
    windows = x[:, step * jnp.arange(count)[:, None] + jnp.arange(length)]
    folded = windows.reshape(len(x) * count, *windows.shape[2:])
    embeddings = model.embedding(name, folded, _window_keys(keys, count))
    return embeddings.reshape(len(x), count, -1)


def _window_keys(keys: Key[Array, " B"] | None, count: int) -> Key[Array, " BN"] | None:
    """A key for each window of each example."""
    keys = layers.fold_keys(keys, ExampleStream.SYNC_WINDOWS)
    if keys is None:
        return None
    of_example = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return jax.vmap(of_example, in_axes=(0, None))(keys, jnp.arange(count)).reshape(-1)


def _synchronization(features: BatchFeatures, settings: Settings) -> TokenLoss:
    """The shift of each clip's sound, among all that there are; see `ShiftedClips`."""
    del settings
    arrays, model = features.arrays(), features.model
    similarities = clip_similarities(model, arrays["video"], arrays["audio"], features.keys)
    return synchronization.synchronization_loss(similarities, features.batch["shift"], jnp.exp(model.logit_scale))


def _check(config: RunConfig) -> None:
    """Checks that windows of video and sound last equally long, and are of whole frames.

    Raises:
      UserError: naming the field.
    """
    model, weight = config.model, f"objectives.sync={config.objectives.sync}"
    specs = {name: decoders.make_decoder(config, part) for name, part in config_queries.encoders(model).items()}
    has_others = config_queries.has_image(config) or config_queries.has_text(config)
    if not isinstance(model, TowersConfig) or has_others or set(specs) != {"video", "audio"}:
        raise UserError(
            f"{weight} compares a video with its sound: fill model.video and model.audio of 'two_tower' alone"
        )
    for name, decoder in specs.items():
        if decoder is None:
            kind = getattr(model, name).kind
            raise UserError(f"model.{name}.kind={kind!r} takes arrays as they are; {weight} cuts frames and sounds")
    for name, least in (("sync_shifts", 1), ("sync_windows", 1)):
        if not least <= getattr(config.loss, name) <= _MOST:
            raise UserError(f"loss.{name}={getattr(config.loss, name)}: give {least} to {_MOST:,}")
    if config.data.video.stride != 1:
        raise UserError(f"data.video.stride={config.data.video.stride}: {weight} sees consecutive frames; set it to 1")
    _check_rates(config, specs["audio"])


def _check_rates(config: RunConfig, audio: Any) -> None:
    rate, spec = config.data.video.rate, audio.log_mel_spec
    a_second = spec.sample_rate / spec.hop
    if rate <= 0 or a_second % rate:
        fitting = [
            a_second / count for count in range(1, int(a_second) + 1) if a_second / count in (10, 12.5, 20, 25, 50)
        ]
        raise UserError(
            f"data.video.rate={rate}: objectives.sync needs frames a second that divide the {a_second:g} spectrogram"
            f" frames of data.audio; set it to {', '.join(f'{one:g}' for one in fitting[::-1]) or f'{a_second:g}'}"
        )
    video: Any = config_queries.encoders(config.model)["video"]
    wanted = round(video.frames * a_second / rate)
    if audio.shape[0] != wanted:
        raise UserError(
            f"model.audio.frames={audio.shape[0]}: the window of model.video.frames={video.frames} at"
            f" data.video.rate={rate:g} lasts {wanted} spectrogram frames; set it to {wanted}"
        )


SYNCHRONIZATION = Objective(
    _synchronization,
    scope="example",
    needs=("embeddings",),
    teaches=("synchronization",),
    alone=True,
    check_config=_check,
)
