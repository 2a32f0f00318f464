"""Images per second, MFU and peak memory of a whole train step on synthetic data that is already on the device.

  python benchmarks/train_step.py --models=B/32,B/16,L/14 --batch=256
  python benchmarks/train_step.py --models=B/16 --batch=512 --peer=open_clip     beside open_clip, in the same run
  python benchmarks/train_step.py --models=tiny --batch=32 --rounds=3            anywhere, to see that it runs

mmjax runs its recipe's own step (configs/clip.py), towers in bfloat16, loss in float32, AdamW. `--config.FIELD=VALUE`
changes any field of it, as in training; `deterministic` is off here, as it is in the peer.

`--peer=open_clip` needs torch, torchvision and open_clip_torch: its own model, ClipLoss and fused AdamW, bfloat16
autocast, with and without torch.compile, same batch, images normalised beforehand. The contenders take turns, round by
round. MFU counts three forward passes' matrix products (mmjax.tasks.model_flops, for both) against the device's dense
bfloat16 peak; recomputation is not counted. Memory: for mmjax the compiler's own sum of arguments, temporaries and
outputs that are not aliased; for torch the most it had allocated. One JSON line a measurement.
"""

import argparse
import gc
import math
import os
import statistics
import sys

import common

from mmjax.errors import UserError

PEER_NAMES = {"B/32": "ViT-B-32", "B/16": "ViT-B-16", "L/14": "ViT-L-14", "H/14": "ViT-H-14"}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="B/32,B/16,L/14", help="variants of configs/clip.py")
    parser.add_argument("--batch", type=int, default=256, help="pairs per step over all devices")
    parser.add_argument("--steps", type=int, default=10, help="steps of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", choices=["open_clip"], default=None)
    parser.add_argument("--peer-compile", choices=["both", "yes", "no"], default="both", help="torch.compile")
    return parser


def main():
    # Both libraries share a device: neither may take all of its memory beforehand.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from mmjax import cli
    from mmjax import config as config_lib

    def command(options, overrides):
        for model in options.models.split(","):
            config = config_lib.load_recipe(f"clip:variant={model}")
            config.batch_size, config.deterministic, config.mesh.fsdp = options.batch, False, 1
            config_lib.apply_overrides(config, overrides)
            cli.prepare(config)
            measure(model, config, options)
        return 0

    return cli.run(make_parser(), None, command)


def measure(model, config, options):
    """Times one size: mmjax's step and, if asked for, the peer's, in turns."""
    import jax

    from mmjax import tasks
    from mmjax.training import devices

    device = jax.devices()[0].device_kind
    flops = 3 * tasks.model_flops(config.model) * config.batch_size
    sheet = devices.find(device)
    contenders, memory = {}, {}
    contenders["mmjax"], memory["mmjax"], note = ours(config, options.steps)
    if options.peer and jax.device_count() > 1:
        raise UserError(
            f"--peer={options.peer} runs on one device, and there are {jax.device_count()}; set CUDA_VISIBLE_DEVICES=0"
        )
    if options.peer:
        for compiled in {"both": (False, True), "yes": (True,), "no": (False,)}[options.peer_compile]:
            name = "open_clip torch.compile" if compiled else "open_clip"
            contenders[name], memory[name] = open_clip_step(PEER_NAMES.get(model), config, options.steps, compiled)
    # Three rounds of warm-up: compilation, then the allocators and clocks.
    seconds = common.interleaved(contenders, rounds=options.rounds, warmup=3)
    base = statistics.median(seconds["mmjax"])
    for name, times in seconds.items():
        per_step = [second / options.steps for second in times]
        fields = common.spread(per_step) | {"images_per_second": config.batch_size / statistics.median(per_step)}
        if sheet is not None:
            fields["mfu"] = flops / statistics.median(per_step) / (sheet.flops * jax.device_count())
        common.emit(
            benchmark="train_step",
            model=model,
            implementation=name,
            batch=config.batch_size,
            **fields,
            memory_gb=memory[name](),
            relative_speed=base / statistics.median(times),
            device=device,
            devices=jax.device_count(),
            settings=note if name == "mmjax" else "bfloat16 autocast, fused AdamW",
            versions=common.versions("mmjax", "jax", "jaxlib", "flax", "torch", "open_clip_torch"),
        )


def synthetic(config):
    """A batch of noise with captions of random length, the same for all contenders."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows, size, text = config.batch_size, config.model.image.image_size, config.model.text
    tokens = rng.integers(1, text.vocab_size - 2, (rows, text.context_length))
    lengths = rng.integers(8, text.context_length, rows)
    place = np.arange(text.context_length)
    tokens = np.where(place < lengths[:, None], tokens, 0)
    tokens[np.arange(rows), lengths] = text.eos_id
    return {
        "image": rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8),
        "text": tokens.astype(np.int32),
        "text_mask": place <= lengths[:, None],
        "id": np.stack([np.arange(rows), np.zeros(rows)], 1).astype(np.uint32),
    }


def ours(config, steps):
    """Returns a function that runs some steps, one that tells the bytes they need, and what was set."""

    from mmjax import tasks
    from mmjax.parallel import arrays
    from mmjax.parallel import mesh as mesh_lib
    from mmjax.training import setup as setup_lib

    mesh = mesh_lib.make_mesh(config.mesh)
    mesh_lib.check_batch("batch_size", config.batch_size, mesh, config.microbatch, loss=config.loss.impl)
    spec = tasks.make_image_spec(config)
    task = tasks.Task(config, spec, mesh=mesh)
    setup = setup_lib.make_setup(config, task, mesh)
    compiled = setup.step.lower(setup.state, tasks.batch_shapes(config, mesh)).compile()
    batch = arrays.to_global(mesh, synthetic(config))
    state = setup.make_state(config.seed)

    def run():
        nonlocal state
        for _ in range(steps):
            state, metrics = compiled(state, batch)
        assert math.isfinite(float(metrics["loss"]))  # waits for the device

    def memory():
        m = compiled.memory_analysis()
        total = m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
        return total / 1e9

    note = (
        f"{config.precision}, attention by {task.describe_attention()}, loss {config.loss.impl},"
        f" microbatch {config.microbatch}, remat {config.model.image.remat}, scan {config.model.image.scan}"
    )
    return run, memory, note


def open_clip_step(name, config, steps, compile_it):
    """The same for open_clip: its model, loss and the optimizer of its training script."""
    try:
        import open_clip
        import torch
        from open_clip.loss import ClipLoss
    except ImportError as error:
        raise UserError(f"--peer=open_clip: {error}; pip install torch torchvision open_clip_torch") from error
    if name is None:
        raise UserError(f"--peer=open_clip: of --models it has {', '.join(PEER_NAMES)}")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = True  # as open_clip's main.py sets it
    torch.backends.cudnn.benchmark = True
    model = open_clip.create_model(name, precision="fp32", device=device, output_dict=True).train()
    decay = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        [{"params": plain, "weight_decay": 0.0}, {"params": decay, "weight_decay": settings.weight_decay}],
        lr=settings.learning_rate,
        betas=(settings.b1, settings.b2),
        eps=settings.eps,
        fused=device.type == "cuda",
    )
    loss_function = ClipLoss()
    batch = synthetic(config)
    mean, std = (torch.tensor(x) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    image = (torch.from_numpy(batch["image"]).float() / 255 - mean) / std
    image = image.permute(0, 3, 1, 2).contiguous().to(device)
    text = torch.from_numpy(batch["text"]).long().to(device)
    forward = torch.compile(model) if compile_it else model

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = loss_function(**forward(image, text))
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        return loss.detach()

    if device.type == "cuda":
        # What it needs alone, before the contenders stand beside each other.
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        step()
        own = sum(p.numel() * p.element_size() for p in model.parameters())
        peak = (torch.cuda.max_memory_allocated() - before + own) / 1e9
    else:
        peak = None  # torch counts a GPU's memory only

    def run():
        for _ in range(steps):
            loss = step()
        assert math.isfinite(float(loss))  # waits for the device

    return run, lambda: peak


if __name__ == "__main__":
    sys.exit(main())
