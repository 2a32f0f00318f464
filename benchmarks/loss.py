"""Memory and time of the contrastive losses' implementations, value and gradients of both towers.

  python benchmarks/loss.py                    memory at global batches of 32k to 1M, times at 4,096, on 8 devices
  python benchmarks/loss.py --batches=2**15 --time-batch=2**14 --mesh=2x2x2

Memory is the compiler's own figure for a device's temporaries: nothing of that size is run. Times are medians of
interleaved calls, `ratio` is to `dense`. On a machine with fewer devices than the mesh has, devices are simulated on
the CPU, and times then compare implementations, not machines. One JSON line a measurement.
"""

import argparse
import functools
import math
import re
import statistics
import sys
from typing import Any

import common

from mmjax.cli import runtime
from mmjax.errors import UserError, validate_choice
from mmjax.parallel.config import MeshConfig


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="2**15,2**16,2**17,2**18,2**20", help="for memory")
    parser.add_argument("--time-batch", default="4096", help="for times; 0 = none")
    parser.add_argument("--width", type=int, default=512, help="of the embeddings")
    parser.add_argument("--mesh", default="8x1x1", help="data x fsdp x tensor")
    parser.add_argument("--block-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--kinds", default="softmax,sigmoid")
    parser.add_argument("--ids", default="unique,shared", help="unique: each pair its own class; shared: by id")
    return parser


def number(flag, text):
    """Reads 4096 or 2**12."""
    if not re.fullmatch(r"\d+(\*\*\d+)?", text):
        raise UserError(f"{flag}={text}: wants numbers such as 4096 or 2**12")
    base, _, exponent = text.partition("**")
    return int(base) ** int(exponent or 1)


def main():
    return runtime.run(make_parser(), None, measure)


def measure(options, overrides):
    """Prints memory, then times, of every case."""
    common.refuse_config(overrides)
    if not re.fullmatch(r"\d+x\d+x\d+", options.mesh):
        raise UserError(f"--mesh={options.mesh}: wants data x fsdp x tensor, such as 8x1x1")
    shape = [int(part) for part in options.mesh.split("x")]
    batches = [number("--batches", part) for part in options.batches.split(",")]
    time_batch = number("--time-batch", options.time_batch)
    for flag, batch in [*(("--batches", batch) for batch in batches), ("--time-batch", time_batch)]:
        if batch % math.prod(shape):
            raise UserError(f"{flag}: {batch} does not divide over the {math.prod(shape)} devices of --mesh")
    kinds = [validate_choice("--kinds", kind, ("softmax", "sigmoid")) for kind in options.kinds.split(",")]
    ids_of = [validate_choice("--ids", which, ("unique", "shared")) for which in options.ids.split(",")]

    import jax

    jax.config.update("jax_num_cpu_devices", math.prod(shape))
    import jax.numpy as jnp
    import numpy as np

    from mmjax.objectives import contrastive
    from mmjax.parallel import mesh as mesh_lib
    from mmjax.parallel.make_mesh import make_mesh

    devices = jax.devices() if len(jax.devices()) >= math.prod(shape) else jax.devices("cpu")
    mesh = make_mesh(MeshConfig(**dict(zip(mesh_lib.AXES, shape, strict=True))), devices[: math.prod(shape)])
    rows, replicated = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    versions = common.versions("jax", "jaxlib", "mmjax")

    @functools.cache
    def compiled(kind, impl, batch, shared):
        def value(image, text, scale, bias, ids):
            settings: dict[str, Any] = dict(impl=impl, mesh=mesh, block_size=options.block_size)
            if kind == "softmax":
                return contrastive.softmax_loss(image, text, scale, ids, **settings)[0]
            return contrastive.sigmoid_loss(image, text, scale, bias, ids, **settings)[0]

        x = jax.ShapeDtypeStruct((batch, options.width), jnp.float32, sharding=rows)
        one = jax.ShapeDtypeStruct((), jnp.float32, sharding=replicated)
        ids = jax.ShapeDtypeStruct((batch, 2), jnp.uint32, sharding=rows) if shared else None
        run = jax.jit(
            jax.value_and_grad(value, argnums=(0, 1, 2, 3)),
            out_shardings=(replicated, (rows, rows, replicated, replicated)),
        )
        return run.lower(x, x, one, one, ids).compile()

    fields = dict(benchmark="loss", mesh=options.mesh, width=options.width, device=devices[0].device_kind)
    for kind in kinds:
        for which in ids_of:
            case = fields | dict(kind=kind, ids=which)
            for batch in batches:
                for impl in contrastive.IMPLEMENTATIONS:
                    memory = common.memory(compiled(kind, impl, batch, which == "shared"))
                    gigabytes = memory.temp_size_in_bytes / 1e9
                    common.emit(**case, impl=impl, batch=batch, temporaries_gb=gigabytes, versions=versions)
            if not time_batch:
                continue
            rng, batch = np.random.default_rng(0), time_batch
            unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
            image, text = (jax.device_put(unit(rng.standard_normal((batch, options.width))), rows) for _ in range(2))
            ids = np.stack([rng.integers(0, batch // 2, batch), np.zeros(batch)], 1).astype(np.uint32)
            ids = jax.device_put(ids, rows) if which == "shared" else None
            scale, bias = (jax.device_put(np.float32(x), replicated) for x in (1 / 0.07, -10.0))
            contenders = {}
            for impl in contrastive.IMPLEMENTATIONS:
                run = compiled(kind, impl, batch, which == "shared")
                contenders[impl] = functools.partial(
                    lambda run, *args: jax.block_until_ready(run(*args)), run, image, text, scale, bias, ids
                )
            seconds = common.interleaved(contenders, rounds=options.rounds)
            base = statistics.median(seconds["dense"])
            for impl, times in seconds.items():
                ratio = statistics.median(times) / base
                common.emit(**case, impl=impl, batch=batch, **common.spread(times), ratio=ratio, versions=versions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
