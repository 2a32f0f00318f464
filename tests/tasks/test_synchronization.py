import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import base_config, parse, set_group
from mmjax.errors import UserError
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.make_mesh import make_mesh
from mmjax.tasks.synchronization import clip_similarities
from mmjax.training import step as step_lib
from tests.helpers.sync_runs import LAYERS, config


def batch(rows=16):
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(256, size=(rows, 5, 8, 8, 3)).astype(np.uint8),
        "audio": rng.normal(size=(rows, 55, 4)).astype(np.float32),
        "shift": rng.integers(7, size=rows).astype(np.int32),
        "id": np.stack([np.arange(rows), np.zeros(rows)], axis=1).astype(np.uint32),
    }


@pytest.fixture(scope="module")
def task():
    return tasks.Task(parse(config()), tasks.make_image_spec(parse(config())))


@pytest.fixture(scope="module")
def params(task):
    return jax.jit(task.init)(jax.random.key(0))


def test_similarities_are_those_of_windows_that_are_embedded_by_themselves(task, params):
    arrays = batch(3)
    similarities = np.array(jax.jit(task.sync_similarities)(params, arrays["video"], arrays["audio"]))
    embed = {name: jax.jit(lambda p, x, name=name: task.embed_modality(p, name, x)) for name in ("video", "audio")}
    video = [np.array(embed["video"](params, arrays["video"][:, m : m + 2])) for m in range(4)]
    audio = [np.array(embed["audio"](params, arrays["audio"][:, 5 * n : 5 * n + 10])) for n in range(10)]
    assert similarities.shape == (3, 4, 7)
    for m in range(4):
        for k in range(7):
            expected = (video[m].astype(np.float64) * audio[m + k]).sum(axis=1)
            np.testing.assert_allclose(similarities[:, m, k], expected, atol=1e-6)


def test_the_loss_is_that_of_the_similarities(task, params):
    arrays = batch(5)
    _, sums = jax.jit(lambda params, arrays: task.encode(params, arrays, None))(params, arrays)
    similarities = np.array(jax.jit(task.sync_similarities)(params, arrays["video"], arrays["audio"]), np.float64)
    logits = math.exp(float(params["logit_scale"])) * similarities.mean(axis=1)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(5), arrays["shift"]]
    np.testing.assert_allclose(sums["sync"].total, expected, rtol=1e-4)


@pytest.mark.full
@pytest.mark.parametrize(("mesh", "pieces"), [((8, 1, 1), 1), ((2, 2, 2), 1), ((1, 1, 1), 4), ((4, 2, 1), 2)])
def test_meshes_and_microbatches_give_the_loss_and_gradients_of_one_device(task, params, mesh, pieces):
    reference = _value_and_gradient(task, params, None, 1)
    changed = parse(config(mesh__data=mesh[0], mesh__fsdp=mesh[1], mesh__tensor=mesh[2], microbatch=pieces))
    devices = make_mesh(changed.mesh, jax.devices()[: math.prod(mesh)])
    spread = tasks.Task(changed, tasks.make_image_spec(changed), mesh=devices)
    value, gradients = _value_and_gradient(spread, params, devices, pieces)
    assert float(value) == pytest.approx(float(reference[0]), rel=1e-6)
    check = lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-6)
    jax.tree.map(check, gradients, reference[1])


def _value_and_gradient(task, params, mesh, pieces):
    one = make_mesh(parse(config()).mesh, jax.devices()[:1]) if mesh is None else mesh
    total = step_lib.make_loss(task, pieces, one)
    arrays = mesh_lib.to_global(one, batch())
    loss = lambda params, arrays: total(params, arrays, None)[0]
    return jax.device_get(jax.jit(jax.value_and_grad(loss))(params, arrays))


def test_noise_is_that_of_windows():
    """Windows of one example have noise of their own: equal ones are embedded differently in training."""
    noisy = config(model__video__dropout=0.5)
    task = tasks.Task(parse(noisy), tasks.make_image_spec(parse(noisy)))
    params = task.init(jax.random.key(0))
    arrays = batch(2)
    arrays["video"][:] = arrays["video"][:, :1]
    model = task.model.bind({"params": params})
    video = jnp.asarray(arrays["video"], jnp.float32) / 255
    audio = jnp.asarray(np.broadcast_to(arrays["audio"][:, :1], arrays["audio"].shape))
    still = clip_similarities(model, video, audio)
    drawn = clip_similarities(model, video, audio, jax.random.split(jax.random.key(1), 2))
    assert np.ptp(still, axis=(1, 2)).max() < 1e-5 < 1e-3 < np.ptp(drawn[:, :, 0], axis=1).min()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__video__stride": 0}, "data.video.stride=0: objectives.sync=1.0 sees consecutive frames; set it to 1"),
        (
            {"data__video__rate": 24.0},
            "data.video.rate=24.0: objectives.sync needs frames a second that divide the 100 spectrogram frames of"
            " data.audio; set it to 10, 12.5, 20, 25, 50",
        ),
        ({"data__video__rate": 0.0}, "data.video.rate=0.0: objectives.sync needs frames a second that divide the 100"),
        ({"data__audio__sample_rate": 11025}, "divide the 100.227 spectrogram frames"),
        (
            {"data__video__rate": 25.0},
            "model.audio.frames=10: the window of model.video.frames=2 at data.video.rate=25 lasts 8 spectrogram"
            " frames; set it to 8",
        ),
        ({"loss__sync_shifts": 0}, "loss.sync_shifts=0: give 1 to 10,000"),
        ({"loss__sync_windows": 0}, "loss.sync_windows=0: give 1 to 10,000"),
        ({"objectives__itc": 1.0}, "objectives.itc=1.0 does not go with objectives.sync; set one of the two to 0"),
    ],
)
def test_fields_that_do_not_fit_are_one_line(changes, message):
    changed = parse(config(**changes))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        tasks.Task(changed, tasks.make_image_spec(changed))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_video_and_a_sound_is_refused():
    other = config()
    towers = dict(audio=other.model.audio.to_dict(), series=dict(LAYERS, steps=8))
    set_group(other, "model", dict(kind="two_tower", embed_dim=8, **towers))
    with pytest.raises(UserError, match="fill model.video and model.audio of 'two_tower' alone"):
        tasks.Task(parse(other), None)
    plain = base_config("tiny")
    plain.objectives.sync = 1.0
    with pytest.raises(UserError, match="fill model.video and model.audio of 'two_tower' alone"):
        tasks.Task(parse(plain), tasks.make_image_spec(parse(plain)))
