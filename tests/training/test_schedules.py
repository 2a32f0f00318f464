"""Learning rates at the steps where something changes."""

import math

import pytest

from mmjax.config.schema import base_config, parse
from mmjax.errors import UserError
from mmjax.training.schedules import make_schedule


def schedule(name, steps=100, peak=2.0, **settings):
    config = base_config("tiny")
    config.steps = steps
    config.optimizer.learning_rate = peak
    config.schedule.update({"name": name, "warmup": 10, "final": 0.0} | settings)
    run = parse(config)
    rate = make_schedule(run.schedule, run.steps, run.optimizer.learning_rate)
    return lambda step: float(rate(step))


@pytest.mark.parametrize("name", ["cosine", "constant", "rsqrt", "step"])
def test_warmup(name):
    rate = schedule(name, decay_every=20)
    for k in range(10):
        assert rate(k) == pytest.approx(2.0 * (k + 1) / 10)
    assert rate(10) == pytest.approx(2.0)


@pytest.mark.parametrize("name", ["cosine", "constant", "rsqrt", "step"])
def test_no_warmup_starts_at_the_peak(name):
    assert schedule(name, warmup=0, decay_every=20)(0) == pytest.approx(2.0)


def test_cosine():
    rate = schedule("cosine")
    assert rate(55) == pytest.approx(1.0)  # half way
    assert rate(99) == pytest.approx(1.0 + math.cos(math.pi * 89 / 90), rel=1e-3)  # the last update
    assert rate(100) == rate(200) == pytest.approx(0.0, abs=1e-6)


def test_cosine_to_a_floor():
    rate = schedule("cosine", final=0.1)
    assert rate(55) == pytest.approx(2.0 * 0.55)
    assert rate(100) == pytest.approx(0.2)


def test_constant():
    rate = schedule("constant")
    assert rate(10) == rate(99) == rate(1000) == 2.0


def test_rsqrt():
    rate = schedule("rsqrt", timescale=30)
    assert rate(40) == pytest.approx(2.0 * math.sqrt(0.5))
    assert rate(10 + 90) == pytest.approx(1.0)


@pytest.mark.parametrize("final", [0.0, 0.25])
def test_cooldown(final):
    """`final` is a share of the peak; of the decayed rate with `final_of='rate'`."""
    constant = schedule("constant", cooldown=20, final=final)
    rsqrt, free = schedule("rsqrt", cooldown=20, final=final, timescale=30), schedule("rsqrt", timescale=30)
    of_rate = schedule("rsqrt", cooldown=20, final=final, timescale=30, final_of="rate")
    assert constant(80) == 2.0 and rsqrt(80) == of_rate(80) == free(80)
    for step, left in ((81, 0.95), (90, 0.5), (99, 0.05), (100, 0.0), (150, 0.0)):
        share = final + (1 - final) * left
        assert constant(step) == pytest.approx(2.0 * share, abs=1e-6)
        assert of_rate(step) == pytest.approx(free(step) * share, abs=1e-6)
        assert rsqrt(step) == pytest.approx(free(step) * left + 2.0 * final * (1 - left), abs=1e-6)
    assert constant(100) == rsqrt(100) == pytest.approx(2.0 * final, abs=1e-6)


def big_vision(step, kind, *, total=100, warmup=10, cooldown=0, timescale=10_000):
    """`create_learning_rate_schedule` of big_vision/utils.py at 11eea57, as a share of the peak."""
    progress = min(max((step - warmup) / (total - warmup), 0.0), 1.0)
    rate = {"cosine": lambda: 0.5 * (1 + math.cos(math.pi * progress)), "rsqrt": lambda: 1.0}[kind]()
    if kind == "rsqrt" and warmup <= step:
        rate = 1 / math.sqrt(1 + (step - warmup) / timescale)
    if warmup:
        rate *= min(1.0, step / warmup)
    return rate * min(1.0, (total - step) / cooldown) if cooldown else rate


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("cosine", {}), ("cosine", dict(warmup=0)), ("rsqrt", dict(timescale=30)), ("rsqrt", dict(cooldown=20))],
)
def test_big_vision(kind, settings):
    rate = schedule(kind, from_zero=True, **settings)
    for step in range(100):
        assert rate(step) == pytest.approx(2.0 * big_vision(step, kind, **settings), rel=1e-5, abs=1e-6), step


def test_steps():
    """BLIP's `max(min_lr, init_lr * decay_rate ** epoch)`, with the warm-up inside the first epoch."""
    rate = schedule("step", decay_rate=0.5, decay_every=20, final=0.1)
    assert [rate(k) for k in (4, 9, 10, 19)] == pytest.approx([1.0, 2.0, 2.0, 2.0])
    assert [rate(k) for k in (20, 39, 40, 60, 80, 99)] == pytest.approx([1.0, 1.0, 0.5, 0.25, 0.2, 0.2])


def test_a_cooldown_may_follow_the_warmup_at_once():
    rate = schedule("constant", steps=20, cooldown=10)
    assert [rate(9), rate(10), rate(15)] == pytest.approx([2.0, 2.0, 1.0])


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("cosin", {}, r"schedule.name='cosin' is not known \(did you mean 'cosine'\?\)"),
        (
            "cosine",
            {"warmup": 101},
            r"schedule.warmup=101 \+ schedule.cooldown=0 is more than steps=100; lower them.*:steps=100$",
        ),
        ("rsqrt", {"cooldown": 95}, r"schedule.warmup=10 \+ schedule.cooldown=95 is more than steps=100"),
        ("rsqrt", {"final_of": "end"}, r"schedule.final_of='end' is not known; choose one of: peak, rate"),
        ("cosine", {"cooldown": 5}, r"schedule.cooldown=5 goes with 'constant' or 'rsqrt'"),
        ("step", {"decay_every": 5, "cooldown": 5}, r"schedule.cooldown=5 goes with 'constant' or 'rsqrt'"),
        ("step", {}, r"schedule.decay_every=0, schedule.decay_rate=0.9: schedule.name='step' needs 1 update or more"),
        ("step", {"decay_every": 5, "decay_rate": 1.5}, r"schedule.decay_rate=1.5: .* a factor above 0 and at most 1"),
    ],
)
def test_mistakes(name, settings, message):
    with pytest.raises(UserError, match=message):
        schedule(name, **settings)
