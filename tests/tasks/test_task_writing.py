"""Writing on several devices."""

import re

import jax
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.tasks import config_queries
from tests.helpers import model_kinds


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["tiny-captioner", "tiny-captioner-lstm", "tiny-coca", "tiny-prefix_lm", "tiny-blip-vqa", "tiny-blip2"]
)
def test_beams_stay_on_their_devices(name):
    """Of the beams of other devices' examples nothing is received: no cache, no logits."""
    config = model_kinds.config(name, decoding__method="beam", decoding__beams=3, decoding__max_tokens=4)
    mesh = make_mesh(MeshConfig(data=8, fsdp=1, tensor=1))
    words = model_kinds.tokenizer(config_queries.text_length(parse(config)))
    task = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), words, mesh)
    decoding, size = task.decoding(words), config.model.image.image_size
    rows, replicated = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    write = lambda *args: task.generate(*args, decoding)
    run = jax.jit(write, in_shardings=(replicated, rows, rows, rows), out_shardings=rows)
    params = jax.eval_shape(task.init, jax.random.key(0))
    shapes = [((8, size, size, 3), np.uint8), ((8, 1), np.int32), ((8, 1), np.bool_)]
    program = run.lower(params, *(jax.ShapeDtypeStruct(*shape) for shape in shapes)).compile().as_text()
    travels = re.findall(r"= (.+?) (?:all-gather|all-to-all|collective-permute|all-reduce)(?:-start)?\(", program)
    assert travels and set(travels) == {"pred[]"}  # whether all are finished
