"""Time of one attention layer, forward and backward, by length: cuDNN's kernel against XLA's, filled and packed.

  python benchmarks/attention.py
  python benchmarks/attention.py --cases=197x12,77x8:causal --batch=512

A case is LENGTHxHEADS, of heads of 64, and how it is masked: nothing, `causal`, or `packed` (causal, and each token
sees its own segment of 18 tokens only). cuDNN trains on even counts of tokens: an odd one is filled with a token that
nobody sees, as mmjax's towers do, and told as `filled`. The kernels take turns; medians; one JSON line a measurement,
as soon as a case is done.
"""

import argparse
import os
import sys

import common

from mmjax.errors import UserError

# Image towers of B/32, B/16 and L/14, the text tower padded and packed.
CASES = "50x12,197x12,257x16,77x8:causal,80x8:packed,128x8:packed"
HEAD_DIM = 64
SEGMENT = 18
CALLS = 10  # in one measurement
MASKS = ("", "causal", "packed")


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--batch", type=int, default=256, help="rows")
    parser.add_argument("--rounds", type=int, default=5)
    return parser


def main():
    return run(None)


def run(argv):
    from mmjax.cli import runtime

    def command(options, overrides):
        common.refuse_config(overrides)
        for flag in ("batch", "rounds"):
            common.whole_number(f"--{flag}", str(getattr(options, flag)))
        cases = [parse(text) for text in options.cases.split(",")]
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        for case in cases:
            measure(*case, options)
        return 0

    return runtime.run(make_parser(), argv, command)


def parse(text):
    """Reads LENGTHxHEADS[:MASK].

    Raises:
      UserError: it is something else.
    """
    sizes, _, mask = text.partition(":")
    length, cross, heads = sizes.partition("x")
    if not cross or mask not in MASKS:
        raise UserError(f"--cases={text}: wants LENGTHxHEADS, and maybe :causal or :packed after it")
    return common.whole_number("--cases", length), common.whole_number("--cases", heads), mask


def measure(length, heads, mask, options):
    """Times one case on each kernel that the device has."""
    import jax
    import jax.numpy as jnp

    from mmjax.nn import attention, attention_kernels

    device = jax.devices()[0]
    best, obstacle = attention_kernels.choose_implementation("auto", device, jnp.bfloat16, heads, HEAD_DIM)
    kernels = dict.fromkeys((best, "xla"))
    fields = dict(
        length=length,
        heads=heads,
        mask=mask or "none",
        batch=options.batch,
        device=device.device_kind,
        versions=common.versions("jax", "jaxlib"),
    )
    runs = {}
    for kernel in kernels:
        call = layer(length, heads, mask, options.batch, kernel)
        try:
            call()
            runs[kernel] = call
        except (NotImplementedError, ValueError, RuntimeError) as error:  # the other cases are worth as much
            message = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:150]}"
            common.emit(benchmark="attention", kernel=kernel, **fields, error=message)
    for kernel, times in common.interleaved(runs, rounds=options.rounds).items():
        common.emit(
            benchmark="attention",
            kernel=kernel,
            filled=attention.padded_length(length, kernel),
            **fields,
            **common.spread([time / CALLS for time in times]),
            note=obstacle,
        )


def layer(length, heads, mask, batch, kernel):
    """A function that runs the case some times, forward and backward, and waits for the device."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from mmjax.nn import attention, tpu_attention

    filled = attention.padded_length(length, kernel)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((batch, filled, heads, HEAD_DIM)), jnp.bfloat16) for _ in range(3))
    segment = None
    if mask == "packed":
        segment = jnp.broadcast_to(jnp.arange(filled) // SEGMENT, (batch, filled))
    spec = attention.AttentionSpec(bool(mask), None, length if filled != length else None, segment=segment)

    def output(q: jax.Array, k: jax.Array, v: jax.Array, spec: attention.AttentionSpec) -> jax.Array:
        if kernel != "pallas":
            return attention.attend(q, k, v, spec, kernel)
        if spec.segment is not None:
            raise NotImplementedError("the kernel for TPUs knows no segments")
        return tpu_attention.fused_attention(jnp.stack((q, k, v), axis=2), heads, spec.causal).reshape(q.shape)

    @jax.jit
    def gradients(q, k, v, spec):
        value = lambda q, k, v: output(q, k, v, spec).astype(jnp.float32).sum()
        return jax.grad(value, argnums=(0, 1, 2))(q, k, v)

    def run():
        for _ in range(CALLS):
            out = gradients(q, k, v, spec)
        jax.block_until_ready(out)

    return run


if __name__ == "__main__":
    sys.exit(main())
