"""Ten steps of a tiny model on a mesh, by one process or by several: what tests of meshes compare."""

import math

import jax
import numpy as np
import optax

from mmjax import tasks
from mmjax.config import parse
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import build_step, checkpoint
from tests.helpers import tiny_recipe

BATCH, STEPS, LENGTH = 16, 10, 8


def config_of(mesh, **changes):
    """SGD with momentum: after the first step its trace is the gradient. Eight heads, for eight `tensor` devices."""
    config = tiny_recipe.get_config()
    config.mesh.update(data=mesh[0], fsdp=mesh[1], tensor=mesh[2])
    config.model.text.context_length = LENGTH
    config.data.mean_std = "siglip"
    for tower in (config.model.image, config.model.text):
        tower.heads = 8
    config.optimizer.update({"name": "sgd", "learning_rate": 0.02, "b1": 0.9, "weight_decay": 0.0} | changes)
    config.schedule.warmup = 0
    return config


class Steps:
    """A compiled step on a mesh of all devices (or the first ones, where the mesh is smaller) and its checkpoints."""

    def __init__(self, mesh, change=None, **changes):
        self.config = config_of(mesh, **changes)
        if change is not None:
            change(self.config)
        self.mesh = make_mesh(parse(self.config).mesh, jax.devices()[: math.prod(mesh)])
        self.task = tasks.Task(parse(self.config), tasks.make_image_spec(parse(self.config)), mesh=self.mesh)
        setup = build_step.make_setup(parse(self.config), self.task, self.mesh)
        self.abstract, self.shardings, self.step = setup.state, setup.shardings, setup.step
        self.rows = mesh_lib.local_rows(self.mesh, BATCH)

    def start(self):
        """The same random numbers on every mesh; nothing is compiled for them."""
        rng = np.random.default_rng(0)

        def fill(path, x):
            values = 0.15 * rng.standard_normal(x.shape) + path.endswith("scale")
            return np.float32(2.0) if path == "logit_scale" else values.astype(np.float32)

        state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.abstract)
        state = state.replace(
            params=partition.map_with_path(fill, state.params),
            rng=np.array([1, 2], np.uint32),
            first_bad_step=np.int32(-1),
        )
        put = lambda x, sharding: jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
        return jax.tree.map(put, jax.tree.map(np.asarray, state), self.shardings)

    def train(self, state, steps=STEPS):
        """Returns losses, the gradient of the first step (by path) and the state at the end."""
        losses, gradient = [], None
        for k in range(steps):
            local = {name: x[self.rows] for name, x in batch(k).items()}
            state, metrics = self.step(state, mesh_lib.to_global(self.mesh, local))
            losses.append(float(metrics["loss"]))
            gradient = flat(trace(state)) if gradient is None else gradient
        return np.array(losses), gradient, state

    def save(self, folder, state):
        """Writes a checkpoint, number 1."""
        checkpoints = checkpoint.Checkpoints(folder)
        checkpoints.save(1, state, {})
        checkpoints.wait()
        checkpoints.close()

    def restore(self, folder):
        """Reads it onto this mesh; every array has the sharding asked for."""
        checkpoints = checkpoint.Checkpoints(folder)
        state = checkpoints.restore(1, self.abstract)
        checkpoints.close()
        assert jax.tree.map(lambda x: x.sharding, state) == self.shardings
        return state


def batch(seed):
    """Twelve kinds of noisy pictures, each with its caption; pairs of one kind share an id."""
    kinds = np.random.default_rng(100)
    pictures, captions = kinds.integers(0, 256, (12, 16, 16, 3)), kinds.integers(0, 250, (12, LENGTH))
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 12, BATCH)
    text = captions[kind]
    text[:, -1] = 258
    return {
        "image": (0.7 * pictures[kind] + 0.3 * rng.integers(0, 256, (BATCH, 16, 16, 3))).astype(np.uint8),
        "text": text.astype(np.int32),
        "text_mask": np.ones((BATCH, LENGTH), bool),
        "id": np.stack([kind, np.zeros(BATCH)], axis=1).astype(np.uint32),
    }


def trace(state):
    """The momentum."""
    leaves = jax.tree.leaves(state.opt_state, is_leaf=lambda x: isinstance(x, optax.TraceState))
    return next(x.trace for x in leaves if isinstance(x, optax.TraceState))


def flat(tree):
    """Whole arrays by path, as numpy, in every process."""
    tree = mesh_lib.to_host(tree)
    return {partition.path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def relative(a, b):
    """Norm of the difference over the norm, of whole trees."""
    norm = lambda tree: math.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in tree.values()))
    return norm({path: a[path].astype(np.float64) - b[path] for path in b}) / norm(b)
