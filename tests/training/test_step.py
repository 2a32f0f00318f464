"""The update: the same on one device and on many, in one piece and in several; what it guards and leaves alone."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import tasks
from mmjax.config import parse
from mmjax.config.schema import base_config
from mmjax.objectives.token_loss import TokenLoss
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.parallel.make_mesh import make_mesh
from mmjax.parallel.partition import map_with_path, path_name
from mmjax.training.build_step import make_init, make_setup, state_shardings
from mmjax.training.optimizer import make_optimizer
from mmjax.training.step import example_keys, make_loss
from tests.helpers import campaign

BATCH, STEPS = 16, 10


def make_config(variant="tiny", *, mesh=(1, 1, 1), noise=False, microbatch=1, loss="dense", **optimizer):
    """Plain SGD with momentum: after the first step its trace is the gradient."""
    config = base_config(variant)
    config.steps = STEPS
    config.batch_size = BATCH
    config.microbatch = microbatch
    config.precision = "float32"
    config.data.mean_std = "siglip"
    config.loss.update(impl=loss, block_size=3)
    config.mesh.update(data=mesh[0], fsdp=mesh[1], tensor=mesh[2])
    config.objectives["sigmoid" if "siglip" in variant else "itc"] = 1.0
    config.model.text.update(vocab_size=40, context_length=8, eos_id=39)
    if noise:
        config.model.image.patch_dropout = 0.5
        config.model.text.dropout = 0.2
        config.model.text.drop_path = 0.2 if noise == "all" else 0.0
        config.model.image.dropout = 0.2 if noise == "all" else 0.0
    rate = 0.01 if "siglip" in variant else 0.1
    settings = {"name": "sgd", "learning_rate": rate, "b1": 0.9, "weight_decay": 0.0}
    config.optimizer.update(settings | optimizer)
    config.schedule.update(name="constant", warmup=0)
    return config


class Run:
    """A compiled step and the state it starts from, the same on every mesh."""

    def __init__(self, config, random_params):
        sizes = [config.mesh[axis] for axis in ("data", "fsdp", "tensor")]
        self.config = config
        self.mesh = make_mesh(parse(config).mesh, jax.devices()[: math.prod(sizes)])
        self.task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), mesh=self.mesh)
        setup = make_setup(parse(config), self.task, self.mesh)
        self.shardings, self.abstract, self.step = setup.shardings, setup.state, setup.step
        self.start = random_params(self.abstract.params)
        self.start["logit_scale"] = np.float32(2.0)

    def state(self, **changes):
        """A fresh state (a step donates the one it gets), `changes` over the parameters."""
        params = self.start | {key: np.float32(value) for key, value in changes.items()}
        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.abstract).replace(
            params=params,
            ema_params=params if self.abstract.ema_params is not None else None,
            rng=np.array([1, 2], np.uint32),
            first_bad_step=np.int32(-1),
        )
        return jax.device_put(state, self.shardings)

    def batch(self, seed):
        return mesh_lib.to_global(self.mesh, make_batch(seed))

    def train(self, steps=STEPS):
        """Returns losses, the gradient of step 0 and the parameters at the end."""
        state, losses, gradient = self.state(), [], None
        for k in range(steps):
            state, metrics = self.step(state, self.batch(k))
            losses.append(float(metrics["loss"]))
            gradient = flat(trace(state)) if gradient is None else gradient
        assert int(state.step) == steps and int(state.first_bad_step) == -1
        return np.array(losses), gradient, flat(state.params)


def make_batch(seed):
    """Twelve kinds of noisy pictures, each with its caption; pairs of one kind share an id and are positives."""
    kinds = np.random.default_rng(100)
    pictures, captions = kinds.integers(0, 256, (12, 16, 16, 3)), kinds.integers(0, 39, (12, 8))
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 12, BATCH)
    image = 0.7 * pictures[kind] + 0.3 * rng.integers(0, 256, (BATCH, 16, 16, 3))
    text = captions[kind]
    text[np.arange(BATCH), rng.integers(2, 8, BATCH)] = 39
    return {
        "image": image.astype(np.uint8),
        "text": text.astype(np.int32),
        "text_mask": np.ones((BATCH, 8), bool),
        "id": np.stack([kind, np.zeros(BATCH)], axis=1).astype(np.uint32),
    }


def trace(state):
    leaves = jax.tree.leaves(state.opt_state, is_leaf=lambda x: isinstance(x, optax.TraceState))
    return next(x.trace for x in leaves if isinstance(x, optax.TraceState))


def flat(tree):
    return {path_name(path): np.asarray(x, np.float64) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def norm(tree):
    return math.sqrt(sum((x**2).sum() for x in tree.values()))


def relative(a, b):
    """Norm of the difference over the norm, whole trees."""
    return norm({path: a[path] - b[path] for path in b}) / norm(b)


def key_bias(path, x):
    """The keys' part of a fused bias, whose true gradient is zero: it moves all logits of a query alike."""
    return x[:, 1] if path.endswith("attention/qkv/bias") else None


@pytest.fixture(scope="module")
def one(random_params):
    return Run(make_config(), random_params)


@pytest.fixture(scope="module")
def one_trained(one):
    return one.train()


# -- many devices against one ------------------------------------------------------------------------------------------


def compare(many, one, starts):
    (losses, gradient, params), (losses_one, gradient_one, params_one) = many, one
    assert losses_one[-1] != pytest.approx(losses_one[0], rel=0.05), "nothing was learnt, nothing compared"
    np.testing.assert_allclose(losses, losses_one, rtol=1e-5)
    assert relative(gradient, gradient_one) <= 1e-5
    assert relative(params, params_one) <= 1e-6
    for path, x in params.items():
        # Leaf by leaf too, so that a wrong small one does not hide in the norm of the whole. Key biases apart.
        keys = key_bias(path, x)
        if keys is None:
            assert np.linalg.norm(x - params_one[path]) <= 1e-5 * np.linalg.norm(params_one[path]), path
        else:
            assert abs(keys - key_bias(path, starts[path])).max() <= 1e-6, path
            assert abs(key_bias(path, gradient[path])).max() <= 1e-6, path


@pytest.fixture(scope="module")
def over_data(random_params):
    """Runs with the batch over all eight devices, compiled ahead of time: by variant and loss."""
    runs = {}

    def make(variant, loss):
        if (variant, loss) not in runs:
            run = runs[variant, loss] = Run(make_config(variant, mesh=(8, 1, 1), loss=loss), random_params)
            run.step = run.step.lower(run.state(), run.batch(0)).compile()
        return runs[variant, loss]

    return make


@pytest.mark.parametrize(
    ("mesh", "loss"), [((8, 1, 1), "ring"), pytest.param((2, 2, 2), "gather", marks=pytest.mark.full)], ids=str
)
def test_eight_devices_against_one(random_params, over_data, one, one_trained, mesh, loss):
    run = Run(make_config(mesh=mesh, loss=loss), random_params) if mesh[1] > 1 else over_data("tiny", loss)
    compare(run.train(), one_trained, flat(one.start))
    if mesh[1] > 1:
        placed = {path_name(path): s.spec for path, s in jax.tree_util.tree_leaves_with_path(run.shardings.params)}
        assert "tensor" in placed["image/transformer/layers/attention/qkv/kernel"]  # it was sharded indeed


def collectives(program):
    """How often each collective on an array with a row for every example or device's share stands in a program."""
    sizes = "|".join(str(BATCH // part) for part in (1, 8))
    pattern = (
        rf"= \(?(\w+)\[(?:{sizes}),\d+\][^=\n]* (all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\("
    )
    return sorted((name, kind) for kind, name in re.findall(pattern, program))


@pytest.mark.parametrize(
    ("variant", "loss", "expected"),
    [
        # A gather and a scatter a tower, and the ids.
        pytest.param(
            "tiny",
            "gather",
            [("all-gather", "f32")] * 2 + [("all-gather", "u32")] + [("reduce-scatter", "f32")] * 2,
            marks=pytest.mark.full,
        ),
        pytest.param(
            "tiny-siglip",
            "gather",
            [("all-gather", "f32"), ("all-gather", "u32"), ("reduce-scatter", "f32")],
            marks=pytest.mark.full,
        ),
        # Texts and ids on the one trip; on the other the texts' gradients too.
        ("tiny", "ring", [("collective-permute", "f32")] * 3 + [("collective-permute", "u32")] * 2),
        pytest.param(
            "tiny-siglip",
            "ring",
            [("collective-permute", "f32")] * 3 + [("collective-permute", "u32")],  # one f32 is for the accuracy
            marks=pytest.mark.full,
        ),
    ],
)
def test_what_of_the_batch_passes_between_devices(over_data, variant, loss, expected):
    """Read from the compiled update with the batch over all eight devices."""
    program = over_data(variant, loss).step.as_text()
    assert collectives(program) == expected
    others = {"gather": ["collective-permute", "all-to-all"], "ring": ["all-gather", "reduce-scatter", "all-to-all"]}
    assert not re.search(rf" ({'|'.join(others[loss])})(-start)?\(", program)


@pytest.fixture(scope="module")
def noisy_trained(random_params):
    """Runs on one device with every kind of noise, by variant: (result, starting parameters)."""
    runs = {}

    def train(variant):
        if variant not in runs:
            run = Run(make_config(variant, noise="all"), random_params)
            runs[variant] = run.train(), flat(run.start)
        return runs[variant]

    return train


# Of the grid four, in which there is every loss and every mesh; all of it under `make campaign`.
EVERY_MESH = [
    (variant, loss, mesh)
    for loss in ("dense", "gather", "ring")
    for mesh in ((8, 1, 1), (2, 2, 2), (1, 8, 1), (4, 1, 2))
    for variant in ("tiny", "tiny-siglip")
]
OF_ALL_MESHES = [("tiny", "dense", (8, 1, 1)), ("tiny-siglip", "gather", (2, 2, 2)), ("tiny", "ring", (1, 8, 1))]
OF_ALL_MESHES.append(("tiny-siglip", "ring", (4, 1, 2)))


@pytest.mark.full
@pytest.mark.parametrize("microbatch", campaign.some([2, 4, 8], [8]))
def test_microbatches_on_one_device(random_params, noisy_trained, one, one_trained, microbatch):
    """They give the gradient of the whole: noise belongs to an example's position in the batch."""
    expected, start = noisy_trained("tiny")
    run = Run(make_config(noise="all", microbatch=microbatch), random_params)
    compare(run.train(), expected, start)
    assert run.task.needs_rng and not one.task.needs_rng
    assert relative(expected[1], one_trained[1]) > 0.1  # the noise is there


@pytest.mark.full
@pytest.mark.parametrize(("variant", "loss", "mesh"), campaign.some(EVERY_MESH, OF_ALL_MESHES), ids=str)
def test_every_mesh_with_noise_and_microbatches(random_params, noisy_trained, mesh, variant, loss):
    expected, start = noisy_trained(variant)
    run = Run(make_config(variant, mesh=mesh, noise="all", microbatch=2, loss=loss), random_params)
    compare(run.train(), expected, start)


@pytest.mark.full
@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "adafactor"])
def test_every_optimizer_on_a_mesh(random_params, name):
    losses = []
    for mesh in ((1, 1, 1), (2, 2, 2)):
        run = Run(make_config(mesh=mesh, name=name, learning_rate=1e-3, weight_decay=0.1, grad_clip=1.0), random_params)
        state = run.state()
        # Zeros are no start for every rule's state (Muon's holds coefficients).
        tx, _ = make_optimizer(parse(run.config), run.abstract.params)
        state = state.replace(opt_state=jax.jit(tx.init, out_shardings=run.shardings.opt_state)(state.params))
        losses.append([])
        for k in range(5):
            state, metrics = run.step(state, run.batch(k))
            losses[-1].append(float(metrics["loss"]))
    # Lion's sign turns rounding into whole steps where a gradient is zero, so it may differ a little more.
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3 if name == "lion" else 1e-4)


@pytest.mark.parametrize("mesh", [(8, 1, 1), pytest.param((2, 2, 2), marks=pytest.mark.full)], ids=str)
def test_moments_divided_over_data(random_params, one_trained, one, monkeypatch, mesh):
    monkeypatch.setattr(partition, "MIN_SHARDED_SIZE", 64)  # nothing of a tiny model is large
    config = make_config(mesh=mesh)
    config.mesh.shard_optimizer = True
    run = Run(config, random_params)
    compare(run.train(), one_trained, flat(one.start))
    held = {name: partition.device_bytes(getattr(run.abstract, name)) for name in ("params", "opt_state")}
    assert held["opt_state"] < 1.1 * held["params"] / mesh[0]


@pytest.mark.full
def test_initialisation_does_not_depend_on_the_mesh(one, random_params):
    states = []
    for mesh in ((1, 1, 1), (2, 2, 2)):
        config = make_config(mesh=mesh)
        devices = make_mesh(parse(config).mesh, jax.devices()[: math.prod(mesh)])
        shardings, _ = state_shardings(one.abstract, parse(config), devices)
        tx, _ = make_optimizer(parse(config), one.abstract.params)
        states.append(jax.jit(make_init(one.task, parse(config), tx), out_shardings=shardings)(jax.random.key(3)))
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)  # the last bit is the compiler's
    assert int(states[0].step) == 0 and int(states[0].first_bad_step) == -1
    kernel = states[1].params["image"]["transformer"]["layers"]["mlp"]["fc1"]["kernel"]
    assert len({str(shard.index) for shard in kernel.addressable_shards}) == 4  # over fsdp and tensor


# -- pieces of a batch -------------------------------------------------------------------------------------------------


def temporaries(one, pieces, rows=128):
    """Bytes that value and gradients need besides parameters and batch, with noise."""
    config = make_config(noise=True, microbatch=pieces)
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), mesh=one.mesh)
    loss = make_loss(task, pieces, one.mesh)
    batch = {name: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for name, x in make_batch(0).items()}
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
    run = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return run.lower(one.abstract.params, batch, keys).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.full
@pytest.mark.parametrize("pieces", [(1, 2, 8)], ids=str)
def test_memory_falls_with_the_pieces(one, pieces):
    """Activations are those of one piece; what does not fall is the gradient of the parameters and the embeddings."""
    result = [temporaries(one, count) for count in pieces]
    for (a, before), (b, after) in itertools.pairwise(zip(pieces, result, strict=True)):
        assert after <= 1.25 * before * a / b


def test_example_keys_depend_on_seed_step_and_row():
    def data(seed, step, count):
        return np.asarray(jax.random.key_data(example_keys(jnp.array([0, seed], jnp.uint32), jnp.int32(step), count)))

    np.testing.assert_array_equal(data(1, 5, 16)[:8], data(1, 5, 8))
    rows = np.concatenate([data(1, 5, 8), data(1, 6, 8), data(2, 5, 8)])
    assert len(np.unique(rows, axis=0)) == 24


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_additive_losses_stay_with_their_examples(one, pieces):
    """A task with a per-example loss: its mean over the batch is added, and features come back in the batch's order."""

    class Task:
        weights, needs_rng = {"caption": 1.0}, False
        clamp_logit_scale = staticmethod(lambda params: params)

        def encode(self, params, batch, keys):
            assert batch["x"].shape[0] == 8 // pieces
            return {"x": params * batch["x"]}, {"caption": TokenLoss(batch["x"] ** 2, jnp.ones_like(batch["x"]), {})}

        def loss(self, params, features, batch, keys, *, pieces):
            return (features["x"] * batch["weight"]).sum(), {}

    batch = {"x": jnp.arange(8.0), "weight": jnp.arange(8.0) + 1}
    loss = jax.jit(jax.value_and_grad(lambda p: make_loss(Task(), pieces, one.mesh)(p, batch, None), has_aux=True))
    (value, metrics), gradient = loss(jnp.float32(2.0))
    dot = sum(i * (i + 1) for i in range(8))
    assert float(metrics["loss_caption"]) == pytest.approx(17.5)
    assert float(value) == pytest.approx(2 * dot + 17.5)
    assert float(gradient) == pytest.approx(dot)


# -- what the step guards ----------------------------------------------------------------------------------------------


def test_metrics(one, one_trained):
    state, metrics = one.step(one.state(), one.batch(0))
    assert float(metrics["grad_norm"]) == pytest.approx(norm(one_trained[1]), rel=1e-5)
    assert float(metrics["learning_rate"]) == pytest.approx(0.1)
    assert float(metrics["logit_scale"]) == pytest.approx(math.exp(2.0), rel=1e-6)
    assert 0 <= float(metrics["accuracy"]) <= 1
    assert int(metrics["first_bad_step"]) == -1
    np.testing.assert_array_equal(state.rng, [1, 2])


@pytest.mark.parametrize("push, end", [(1e4, math.log(100)), (-1e4, 0.0)])
def test_logit_scale_is_clamped_after_the_update(one, push, end):
    state = one.state()
    momentum = lambda path, x: jnp.full_like(x, -push) if path.endswith("trace/logit_scale") else x
    state, metrics = one.step(state.replace(opt_state=map_with_path(momentum, state.opt_state)), one.batch(0))
    assert float(metrics["logit_scale"]) == pytest.approx(math.exp(2.0), rel=1e-6)
    assert float(state.params["logit_scale"]) == pytest.approx(end, abs=1e-6)


def test_first_bad_step_is_the_first(one):
    state, seen = one.state(), []
    for k in range(5):
        if k == 2:  # the third update is the first that sees it
            norm_params = state.params["image"]["norm"]
            broken = norm_params | {"bias": norm_params["bias"].at[0].set(jnp.nan)}
            state = state.replace(params=state.params | {"image": state.params["image"] | {"norm": broken}})
        state, metrics = one.step(state, one.batch(k))
        seen.append(int(metrics["first_bad_step"]))
    assert seen == [-1, -1, 3, 3, 3]
    assert int(state.first_bad_step) == 3


@pytest.fixture(scope="module")
def locked(random_params):
    """LiT with AdamW, weight decay and a moving average; the logit scale frozen above its bound."""
    config = make_config(
        name="adamw", weight_decay=0.5, learning_rate=0.01, freeze=("image/.*", "image_head/.*", "logit_scale")
    )
    config.ema_decay = 0.9
    return Run(config, random_params)


def test_frozen_parameters(locked, one_trained):
    state = locked.state()
    before = flat(state.params)
    state, metrics = locked.step(state, locked.batch(0))
    # The clipping norm is that of what is trained: here the gradient is the same as the unfrozen model's.
    trained = {path: x for path, x in one_trained[1].items() if path.startswith("text")}
    assert float(metrics["grad_norm"]) == pytest.approx(norm(trained), rel=1e-5)
    for k in range(1, 3):
        state, _ = locked.step(state, locked.batch(k))
    after, average = flat(state.params), flat(state.ema_params)
    for path, x in after.items():
        frozen = not path.startswith("text")
        assert np.array_equal(x, before[path]) == frozen, path
        assert np.array_equal(average[path], before[path]) or not frozen, path
    assert not [path for path in flat(state.opt_state) if "image" in path or "logit" in path]


def test_a_frozen_scale_outside_its_bounds_stays(locked):
    state, _ = locked.step(locked.state(logit_scale=5.0), locked.batch(0))
    assert float(state.params["logit_scale"]) == 5.0


def test_moving_average(locked):
    state = locked.state()
    for k in range(3):
        before = flat(state.ema_params)
        state, _ = locked.step(state, locked.batch(k))
        params, after = flat(state.params), flat(state.ema_params)
        for path in params:
            expected = 0.9 * before[path] + 0.1 * params[path]
            np.testing.assert_allclose(after[path], expected, rtol=1e-6, atol=1e-8)
            assert np.array_equal(after[path], before[path]) != path.startswith("text"), path
