"""Programs' texts and tiny configs, for the tests of plans."""

import json
import os
import subprocess
import sys

from mmjax.config import parse
from mmjax.errors import UserError
from mmjax.plan import hlo
from mmjax.training import device_specs
from tests.helpers import runs

MESH = {"data": 2, "fsdp": 2, "tensor": 2}
CHIP = device_specs.Device("cpu", flops=1e9, memory=1e9, memory_bandwidth=1e9, link_bandwidth=1e9)


def module(entry, *computations):
    """A program's text, of computations as (header, lines)."""
    parts = ["HloModule test, is_scheduled=true\n"]
    for header, text in [*computations, ("ENTRY %main (p: f32[]) -> f32[]", entry)]:
        body = "\n".join("  " + line.strip() for line in text.strip().splitlines())
        parts.append(f"{header} {{\n{body}\n}}\n")
    return hlo.parse("\n".join(parts))


LOOP = (
    "%cond (p: (s32[], f32[4])) -> pred[]",
    """%p = (s32[], f32[4]{0}) parameter(0)
    %i = s32[] get-tuple-element(%p), index=0
    %n = s32[] constant(12)
    ROOT %lt = pred[] compare(%i, %n), direction=LT""",
)


def body(text, result="%x"):
    return (
        "%body (p: (s32[], f32[4])) -> (s32[], f32[4])",
        f"""%p = (s32[], f32[4]{{0}}) parameter(0)
        %i = s32[] get-tuple-element(%p), index=0
        %x = f32[4]{{0}} get-tuple-element(%p), index=1
        {text}
        ROOT %t = (s32[], f32[4]{{0}}) tuple(%i, {result})""",
    )


def loop(start=0, attributes=""):
    return f"""%x = f32[4]{{0}} parameter(0)
    %zero = s32[] constant({start})
    %t = (s32[], f32[4]{{0}}) tuple(%zero, %x)
    ROOT %w = (s32[], f32[4]{{0}}) while(%t), condition=%cond, body=%body{attributes}"""


def tiny(**changes):
    changes = dict(mesh__data=2, mesh__fsdp=2, mesh__tensor=2, model__image__heads=2) | changes
    return parse(runs.config(data__train="", **changes))


def compiled_plan(tmp_path, *flags, without=("XLA_FLAGS",)):
    """`mmjax plan` in a process of its own, which starts the compiler: its JSON, and what it printed."""
    code = "import sys; from mmjax.cli import main; sys.exit(main.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", *flags, f"--output={tmp_path}/plan.json"],
        cwd=runs.ROOT,
        env={key: value for key, value in os.environ.items() if key not in without},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "plan.json").read_text()), done.stdout


def fake_plan(setup, name):
    """Fits from two microbatches on; the more fsdp, the slower; tensor fails to compile."""
    config = setup.config
    if setup.mesh.shape["tensor"] > 1:
        raise UserError("the TPU compiler refuses the program: no")
    plan = {"mesh": dict(setup.mesh.shape), "microbatch": config.microbatch, "fits": config.microbatch > 1}
    plan |= {"batch_size": config.batch_size, "chips": setup.mesh.size}
    plan["remat"] = {"image": "none", "text": "none"}
    plan["memory"] = {"total": 5, "capacity": 10}
    if plan["fits"]:
        plan["roofline"] = {"step": 1.0 * setup.mesh.shape["fsdp"], "bound": "compute", "mfu": 0.5, "serial": 2.0}
        plan["prediction"] = {"step": 2.0 * setup.mesh.shape["fsdp"], "mfu": 0.25}
    else:
        plan["refusal"] = {"needs": 20, "has": 10, "says": "Ran out"}
    return plan
