"""Learning-rate schedules: a step's multiple of the peak."""

import jax.numpy as jnp
import optax

from mmjax.errors import UserError
from mmjax.training.config import ScheduleConfig

SCHEDULES = ("cosine", "constant", "rsqrt", "step")


def make_schedule(settings: ScheduleConfig, steps: int, peak: float) -> optax.Schedule:
    """Builds `step -> learning rate`.

    Update k (from 0) uses `peak * (k + 1) / warmup` while warming up, as OpenCLIP does, or with `from_zero`
    `peak * k / warmup`, as big_vision does. `cosine` then falls to `final`, which update `steps` (one past the last)
    would have; `constant` and `rsqrt` (`sqrt(timescale / (timescale + k - warmup))`, arXiv:2106.04560) fall linearly
    to it over the last `cooldown` updates. `final` is a share of the peak; with `final_of='rate'` it is one of what
    `rsqrt` would have without the cool-down. `step` multiplies by `decay_rate` every `decay_every` updates, counted
    from the first, down to `final` (BLIP, once an epoch).

    Args:
      settings: `schedule` of the run's config.
      steps: of the run.
      peak: learning rate.

    Raises:
      UserError: warm-up and cool-down that do not fit into the run, or `step` without steps.
    """
    name = settings.name
    warmup, cooldown, final = settings.warmup, settings.cooldown, settings.final
    if warmup + cooldown > steps:
        raise UserError(
            f"schedule.warmup={warmup} + schedule.cooldown={cooldown} is more than steps={steps}; lower them, or let a"
            f" recipe that takes steps fit them: --config=RECIPE:steps={steps}"
        )
    if name in ("cosine", "step") and cooldown:
        raise UserError(
            f"schedule.cooldown={cooldown} goes with 'constant' or 'rsqrt'; schedule.name={name!r} has its own end"
        )
    if name == "step" and (settings.decay_every < 1 or not 0 < settings.decay_rate <= 1):
        raise UserError(
            f"schedule.decay_every={settings.decay_every}, schedule.decay_rate={settings.decay_rate}:"
            " schedule.name='step' needs 1 update or more, and a factor above 0 and at most 1"
        )

    def after_warmup(k):
        if name == "cosine":
            progress = jnp.clip(k / max(1, steps - warmup), 0.0, 1.0)
            return final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        if name == "step":
            return jnp.maximum(final, settings.decay_rate ** jnp.floor((k + warmup) / settings.decay_every))
        rate = (
            jnp.sqrt(settings.timescale / (settings.timescale + k))
            if name == "rsqrt"
            else jnp.ones_like(k, jnp.float32)
        )
        if cooldown:
            left = jnp.clip((steps - warmup - k) / cooldown, 0.0, 1.0)
            if settings.final_of == "rate" or name == "constant":
                rate = rate * (final + (1.0 - final) * left)
            else:
                rate = rate * left + final * (1.0 - left)
        return rate

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        ramp = (step + (0.0 if settings.from_zero else 1.0)) / max(1, warmup)
        return peak * jnp.where(step < warmup, ramp, after_warmup(jnp.maximum(step - warmup, 0.0)))

    return schedule
