"""Images per second, MFU, memory, compile time and kernel times of a whole train step, on data already on the device.

  python benchmarks/train_step.py --models=B/32,B/16,L/14 --batch=512,256,96 --trace
  python benchmarks/train_step.py --models=B/16 --batch=512 --peer=open_clip     beside open_clip, in the same run
  python benchmarks/train_step.py --models=B/16 --beside=attention=xla --beside=data.pack_texts=off
  python benchmarks/train_step.py --models=tiny --batch=32 --rounds=3            anywhere, to see that it runs

mmjax runs its recipe's own step (configs/clip.py) as the trainer runs it: captions of real length (lognormal, mean 18
tokens, deviation 10.8) that the trainer's own packer has laid out, images in frames where the device resizes them.
`--config.FIELD=VALUE` changes any field, as in training. On a GPU a second row tells the same with the other value of
`deterministic` (the compiler is told for that program alone). Each `--beside=FIELD=VALUE[,FIELD=VALUE]` adds a row with
these fields changed; `--beside=none` leaves out the one on `deterministic`.

`--peer=open_clip` needs torch, torchvision and open_clip_torch: its own model, ClipLoss and fused AdamW, bfloat16
autocast, with and without torch.compile, the same lengths of captions (which it pads), images resized and normalised
beforehand. The contenders take turns, round by round. Two programs for one device: what does not fit beside the others
may fit alone.

MFU is nominal: three forward passes' matrix products of the whole model on padded texts (mmjax.tasks.model_flops, for
both) against the device's dense bfloat16 peak; `executed_share` is what the compiled program does of them. Memory: for
mmjax the compiler's own sum of arguments, temporaries and outputs that are not aliased; for torch the most it had
allocated. One JSON line a measurement; a model or a contender that runs out of memory is a line with `error`. Lines of
`train_step_alone` come first, as soon as each contender is ready: its last round before the others ran. `--trace` adds
a line with the time of the device by class of kernel, a step.
"""

import argparse
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import common
import open_clip_step

from mmjax.config import overrides as overrides_lib
from mmjax.config import parse
from mmjax.errors import UserError

# Rounds before the first one that counts: compilation, then the allocators and clocks.
WARMUP = 3
# Set before the devices start, or what all rows have in common.
_FIXED = ("xla_flags", "compilation_cache", "batch_size", "mesh")


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="B/32,B/16,L/14", help="variants of configs/clip.py")
    parser.add_argument("--batch", default="256", help="pairs per step over all devices: one for all, or one a model")
    parser.add_argument("--steps", type=int, default=10, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", action="append", default=[], metavar="FIELD=VALUE,...", help="another row")
    parser.add_argument("--trace", action="store_true", help="kernel times, from a trace of one round more")
    parser.add_argument("--peer", choices=["open_clip"], default=None)
    parser.add_argument("--peer-compile", choices=["both", "yes", "no"], default="both", help="torch.compile")
    return parser


def main():
    # Two libraries share a device: neither may take all of its memory beforehand.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return run(None)


def run(argv):
    from mmjax.cli import runtime
    from mmjax.config import recipe

    def command(options, overrides):
        for flag in ("steps", "rounds"):
            common.whole_number(f"--{flag}", str(getattr(options, flag)))
        models = options.models.split(",")
        configs = []
        for model, batch in zip(models, batches(options.batch, len(models)), strict=True):
            config = recipe.load_recipe(f"clip:variant={model}")
            config.update_from_flattened_dict({"batch_size": batch, "mesh.fsdp": 1})
            overrides_lib.apply(config, overrides)
            if options.peer:
                open_clip_step.name_of(model)
            configs.append((model, config, besides(config, options.beside)))
        runtime.prepare(configs[0][1], training=True)  # what it sets is alike in all
        for model, config, others in configs:
            measure(model, config, others, options)
        return 0

    return runtime.run(make_parser(), argv, command)


def batches(text, count):
    """The batch of each of `count` models."""
    sizes = [common.whole_number("--batch", part) for part in text.split(",")]
    if len(sizes) not in (1, count):
        raise UserError(f"--batch={text}: {len(sizes)} batches for {count} models; give one, or one a model")
    return sizes * count if len(sizes) == 1 else sizes


def besides(config, texts):
    """The configs of `--beside`, by their texts."""

    configs = {}
    for text in texts:
        if text == "none":
            continue
        changed = config.copy_and_resolve_references()
        pairs = [part.partition("=") for part in text.split(",")]
        for field, equals, _ in pairs:
            if not equals:
                raise UserError(f"--beside={text}: wants FIELD=VALUE, several with commas between them")
            if field.split(".")[0] in _FIXED:
                raise UserError(f"--beside={text}: {field} is the same for all rows; give it by --config.{field}")
        overrides_lib.apply(changed, [(field, value) for field, _, value in pairs])
        configs[text] = changed
    return configs


def measure(model, config, others, options):
    """Times one size: mmjax's step and whatever is beside it, in turns."""
    import jax

    if options.peer and jax.device_count() > 1:
        raise UserError(
            f"--peer={options.peer} runs on one device, and there are {jax.device_count()}; set CUDA_VISIBLE_DEVICES=0"
        )
    common_fields = dict(model=model, batch=config.batch_size, device=jax.devices()[0].device_kind)
    ready = make_ready(makers(model, config, others, options), common_fields, options.steps)
    seconds = {}
    try:
        runs = {name: contender.run for name, contender in ready.items()}
        seconds = common.interleaved(runs, rounds=options.rounds, warmup=0)
    except RuntimeError as error:
        tell_out_of_memory(error, dict(common_fields, implementation="; ".join(ready)))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        per_step = [second / options.steps for second in times]
        common.emit(
            benchmark="train_step",
            implementation=name,
            **common_fields,
            **common.spread(per_step),
            **rates(config, statistics.median(per_step)),
            relative_speed=next(iter(medians.values())) / medians[name],
            **ready[name].facts(),
            devices=jax.device_count(),
            versions=common.versions("mmjax", "jax", "jaxlib", "flax", "torch", "open_clip_torch"),
        )
    if options.trace:
        for name in seconds:
            if name.startswith("mmjax"):
                trace(name, ready[name], common_fields, options.steps)
    ready.clear()
    free_memory()


def makers(model, config, others, options):
    """Functions that make the contenders, by name."""
    import jax
    import numpy as np
    import our_step

    from mmjax.training import compiler

    shared = our_step.Shared()
    platform = jax.devices()[0].platform
    on_gpu = platform == "gpu"
    deterministic = lambda config: compiler.is_deterministic(config.deterministic, platform)
    programs = {"mmjax": (config, {})}
    if on_gpu and not options.beside:
        others = {f"deterministic={not deterministic(config)}": config}
    for text, changed in others.items():
        wanted = deterministic(changed) if changed is not config else not deterministic(config)
        # XLA_FLAGS are read once; a compiler's option is for one program.
        flip = on_gpu and wanted != deterministic(config)
        programs[f"mmjax, {text}"] = (changed, {"xla_gpu_deterministic_ops": wanted} if flip else {})
    make: dict[str, Callable[[], Any]] = {
        name: lambda name=name, changed=changed, extra=extra: our_step.OurStep(
            changed, shared, name.partition(", ")[2], options.steps, extra
        )
        for name, (changed, extra) in programs.items()
    }
    if options.peer:
        peer, text = open_clip_step.name_of(model), config.model.text
        for compiled in {"both": (False, True), "yes": (True,), "no": (False,)}[options.peer_compile]:
            make["open_clip torch.compile" if compiled else "open_clip"] = lambda compiled=compiled: (
                open_clip_step.OpenClipStep(
                    peer,
                    config,
                    our_step.caption_ids(text, config.batch_size, np.random.default_rng(0)),
                    options.steps,
                    compiled,
                )
            )
    return make


def make_ready(make, fields, steps):
    """Makes and warms up contenders, and tells the last round of warming up, in case that nothing comes after it.

    One for which there is no memory is told and left out.
    """
    ready = {}
    for name, maker in make.items():
        try:
            contender = maker()
            for _ in range(WARMUP):
                start = time.perf_counter()
                contender.run()
            seconds = (time.perf_counter() - start) / steps
            facts = contender.facts()
            common.emit(benchmark="train_step_alone", implementation=name, **fields, seconds=seconds, **facts)
            ready[name] = contender
        except RuntimeError as error:
            tell_out_of_memory(error, dict(fields, implementation=name))
        contender = None
        if name not in ready:
            free_memory()
    return ready


def tell_out_of_memory(error, fields):
    """One line in the record; any other error goes on."""
    message = common.out_of_memory(error)
    if not message:
        raise error
    common.emit(benchmark="train_step", **fields, error=f"out of memory: {message}")
    error.__traceback__ = None  # it holds the arrays


def free_memory():
    """Lets go of what nobody holds any more, and of torch's cache."""
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def rates(config, seconds):
    """Images per second, and MFU where the device's peak is known."""
    import jax

    from mmjax import tasks
    from mmjax.training import device_specs

    rates = {"images_per_second": config.batch_size / seconds}
    sheet = device_specs.find(jax.devices()[0].device_kind)
    if sheet is not None:
        flops = tasks.model_flops(parse(config).model)
        if flops is not None:
            rates["mfu"] = 3 * flops * config.batch_size / seconds / (sheet.flops * jax.device_count())
    return rates


def trace(name, contender, fields, steps):
    """Traces one round and tells the time of the device by class of kernel, in milliseconds a step."""
    import jax
    import kernel_times

    with tempfile.TemporaryDirectory(prefix="mmjax-trace-") as folder:
        jax.profiler.start_trace(folder)
        try:
            contender.run()
        finally:
            jax.profiler.stop_trace()
        times = kernel_times.read(folder, contender.classes())
    if times is None:
        traced = {"error": f"the trace has no kernel of a device; {fields['device']!r} may not be traced"}
    else:
        traced = dict(
            span_ms=times.span / steps,
            busy_ms=times.busy / steps,
            ms_by_class={kind: time / steps for kind, time in times.by_class.items()},
            kernels=[
                [short[:80], kind, time / steps, count / steps] for short, kind, time, count in times.kernels[:20]
            ],
        )
    common.emit(benchmark="train_step_trace", implementation=name, **fields, **traced)


if __name__ == "__main__":
    sys.exit(main())
