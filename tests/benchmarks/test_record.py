"""What is read off a profiler's trace, and how measurements and plans are written into a document."""

import gzip
import importlib
import json

import pytest

from mmjax.plan import kernels
from tests.helpers import runs


@pytest.fixture
def module(monkeypatch):
    """Imports a file of the benchmarks."""
    monkeypatch.syspath_prepend(runs.ROOT / "benchmarks")
    return importlib.import_module


# -- traces ------------------------------------------------------------------------------------------------------------


def write_trace(folder, processes, events):
    """A trace as jax's profiler writes it: `processes` is pid -> (name, {tid: name}), events (pid, tid, name, start,
    microseconds, instruction)."""
    listed = []
    for pid, (name, threads) in processes.items():
        listed.append({"ph": "M", "pid": pid, "name": "process_name", "args": {"name": name}})
        listed += [{"ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": {"name": message}}
                   for tid, message in threads.items()]  # fmt: skip
    for pid, tid, name, start, duration, instruction in events:
        args = {"hlo_op": instruction} if instruction else {}
        listed.append({"ph": "X", "pid": pid, "tid": tid, "name": name, "ts": start, "dur": duration, "args": args})
    folder = folder / "plugins" / "profile" / "2026_11_28"
    folder.mkdir(parents=True)
    with gzip.open(folder / "host.trace.json.gz", "wt") as file:
        json.dump({"traceEvents": [*listed, {}]}, file)


def test_kernel_times_of_a_gpu(module, tmp_path):
    processes = {
        1: ("/device:GPU:0", {11: "Stream #11(Compute)", 12: "Stream #12(MemcpyD2D)", 13: "XLA Ops"}),
        2: ("/host:CPU", {21: "python"}),
    }
    write_trace(
        tmp_path,
        processes,
        [
            (1, 11, "nvjet_sm90_tst_128x256", 1000, 500, "custom-call.7"),
            (1, 11, "loop_add_fusion_3", 1500, 100, ""),  # in a CUDA graph
            (1, 11, "loop_add_fusion_3", 1700, 100, ""),
            (1, 11, "input_reduce_fusion", 1800, 100, "input_reduce_fusion"),
            (1, 12, "MemcpyD2D", 1750, 100, ""),
            (1, 13, "custom-call.7", 1000, 500, "custom-call.7"),  # the same again, in words
            (2, 21, "run", 0, 9000, ""),
        ],
    )
    result = module("kernel_times").read(tmp_path, {"custom-call.7": "products", "input_reduce_fusion": "scatters"})
    assert (result.span, result.busy) == (pytest.approx(0.9), pytest.approx(0.8))
    assert result.by_class == {"products": 0.5, "elementwise": 0.2, "scatters": 0.1, "copies": 0.1}
    assert result.kernels[:2] == [
        ("nvjet_sm90_tst_128x256", "products", 0.5, 1),
        ("loop_add_fusion_3", "elementwise", 0.2, 2),
    ]


def test_kernel_times_are_means_over_devices(module, tmp_path):
    processes = {pid: (f"/device:TPU:{pid}", {1: "XLA Ops", 2: "Steps"}) for pid in range(2)}
    events = [(pid, 1, "fusion.1", 0, 100 * (pid + 1), "fusion.1") for pid in range(2)]
    write_trace(tmp_path, processes, [*events, (0, 2, "1", 0, 5000, "")])
    result = module("kernel_times").read(tmp_path, {"fusion.1": "products"})
    assert result.by_class == {"products": pytest.approx(0.15)} and result.span == result.busy == pytest.approx(0.15)


def test_a_trace_without_a_device_has_no_kernels(module, tmp_path):
    write_trace(tmp_path, {2: ("/host:CPU", {21: "Stream #1"})}, [(2, 21, "run", 0, 9000, "")])
    assert module("kernel_times").read(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16", "attention"),
        ("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "collectives"),
        ("all_gather_fusion", "collectives"),
        ("gemm_fusion_dot_12", "products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int>", "products"),
        ("input_scatter_fusion", "scatters"),
        ("MemsetD32", "fills"),
        ("input_transpose_fusion_2", "copies"),
        ("loop_convert_reduce_fusion", "reductions"),
        ("wrapped_add", "elementwise"),
        ("RepeatBufferKernel", "other"),
    ],
)
def test_a_kernel_is_known_by_its_name(module, name, kind):
    result = module("kernel_times").kernel_class(name, "", {})
    assert result == kind and result in kernels.CLASSES


def test_a_kernel_is_known_by_its_program(module):
    text = """HloModule m
%inside (p: f32[8,8]) -> f32[8,8] {
  %p = f32[8,8]{1,0} parameter(0)
  ROOT %d = f32[8,8]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
ENTRY %main (x: f32[8,8]) -> f32[8,8] {
  %x = f32[8,8]{1,0} parameter(0)
  %loop_fusion.2 = f32[8,8]{1,0} fusion(%x), kind=kCustom, calls=%inside
  ROOT %t = f32[8,8]{0,1} transpose(%loop_fusion.2), dimensions={1,0}
}
"""
    times = module("kernel_times")
    classes = times.program_classes(text)
    assert classes == {"loop_fusion.2": "products", "loop_fusion_2": "products", "t": "copies"}
    assert times.kernel_class("loop_fusion_2", "", classes) == "products"


# -- the record --------------------------------------------------------------------------------------------------------

MEASURED = [
    dict(date="2026-11-28", benchmark="train_step_alone", model="B/16", batch=256, device="GPU", implementation="mmjax",
         seconds=0.08, settings="packed"),
    dict(date="2026-11-28", benchmark="train_step_alone", model="L/14", batch=96, device="GPU", implementation="mmjax",
         seconds=0.12, compile_seconds=None),
    dict(date="2026-11-28", benchmark="train_step", model="B/16", batch=256, device="GPU", implementation="mmjax",
         seconds=0.064, seconds_min=0.063, seconds_max=0.07, images_per_second=4000.0, mfu=0.5, executed_share=0.845,
         memory_gb=17.6, compile_seconds=31.0, relative_speed=1.0, settings="packed", versions={"jax": "0.10.2"}),
    dict(date="2026-11-28", benchmark="train_step", model="B/32", batch=512, device="GPU", implementation="mmjax",
         error="out of memory: 9 | bytes"),
    dict(date="2026-11-28", benchmark="train_step_trace", model="B/16", batch=256, device="GPU", implementation="mmjax",
         span_ms=64.0, busy_ms=60.0, ms_by_class={"products": 40.0, "attention": 5.0}, kernels=[]),
    dict(date="2026-11-28", benchmark="attention", length=197, heads=12, mask="none", batch=256, kernel="cudnn",
         device="GPU", seconds=0.0004),
    dict(date="2026-11-28", benchmark="attention", length=197, heads=12, mask="none", batch=256, kernel="xla",
         device="GPU", seconds=0.001),
    dict(part="tests", seconds=31, status=0, says="7 passed"),
    dict(part="b32", seconds=110, status=124, says="stopped after its 110 s"),
]  # fmt: skip


def test_measurements_are_recorded_once(module, tmp_path, capsys):
    record = module("record")
    results, document = tmp_path / "results.jsonl", tmp_path / "benchmarks.md"
    results.write_text("".join(json.dumps(line) + "\n" for line in MEASURED) + '{"half": 1, "')
    before, after = "# Benchmarks\n\nText.\n", "\n## Retrieval\n\nMore.\n"
    document.write_text(before)
    assert record.run([str(results), f"--append={document}"]) == 0
    document.write_text(document.read_text() + after)
    first = document.read_text()
    assert first.startswith(before + "\n## Measured on GPU, 2026-11-28\n\njax 0.10.2.\n\n") and first.endswith(after)
    for row in (
        "| B/16 | 256 | mmjax | 4,000 | 64.0 (63.0 to 70.0) | 50.0% | 84.5% | 17.6 | 31 | 1.00 |",
        "| L/14 | 96 | mmjax | 800 | 120.0 |  |  |  | cached | alone, one round |",
        "| B/32 | 512 | mmjax | out of memory: 9 / bytes |  |  |  |  |  |  |",
        "| B/16 | 256 | mmjax | 40.00 | 5.00 | 60.00 | 4.00 |",
        "| 197 | 12 | none | 256 | 0.400 | 1.000 | 2.50 |",
        "| tests | 31 | done | 7 passed |",
        "| b32 | 110 | status 124 | stopped after its 110 s |",
    ):
        assert first.count(row) == 1, row
    assert "3,200" not in first  # B/16 alone, of which there is better
    assert record.run([str(results), f"--append={document}"]) == 0
    assert document.read_text() == first
    # A new figure takes the old one's place.
    results.write_text(results.read_text().replace("0.064", "0.032"))
    assert record.run([str(results), f"--append={document}"]) == 0
    second = document.read_text()
    assert "| 8,000 | 32.0 (" in second and "| 4,000 |" not in second and second.endswith(after)


def plan(**changes):
    rows = [
        dict(kind="products", kernels=9, bytes=60e9, flops=2e13),
        dict(kind="reductions", kernels=1, bytes=1e9, flops=0),
    ]
    return dict(
        config="clip B/16", topology="h100:1", device="H100 80GB HBM3", chips=1, mesh=dict(data=1, fsdp=1, tensor=1),
        batch_size=256, microbatch=1, remat=dict(image="none", text="none"), versions={"jax": "0.10.2"}, fits=True,
        memory=dict(activations=15e9, temporaries=2.5e8, total=17e9, capacity=78e9), flops=dict(model=4e13, chip=3e13),
        hbm_bytes=61e9, kernels=rows, prediction=dict(step=0.066, mfu=0.482), roofline=dict(step=0.038, mfu=0.85),
        compile_seconds=31.4,
    ) | changes  # fmt: skip


def test_plans_are_recorded_once(module, tmp_path):
    record, document = module("record"), tmp_path / "benchmarks.md"
    refused = plan(config="clip L/14", fits=False, refusal={"says": "too large"})
    for name in ("roofline", "prediction", "kernels", "hbm_bytes", "compile_seconds"):
        del refused[name]
    for name, item in (("a", plan()), ("b", refused), ("c", plan(topology="v5e:2x2", chips=4, device="TPU v5 lite"))):
        (tmp_path / f"{name}.json").write_text(json.dumps(item, indent=2))
    document.write_text("# Benchmarks\n")
    argv = [*(str(tmp_path / f"{name}.json") for name in "abc"), f"--append={document}", "--note=Packed."]
    assert record.run(argv) == 0
    first = document.read_text()
    assert first.count("## Compiled for h100:1\n\nPacked.\n\n") == first.count("## Compiled for v5e:2x2\n") == 1
    for row in (
        "|  | clip B/16, 256 | clip L/14, 256 |",
        "| fits | yes | does not fit: too large |",
        "| bytes moved | 61.00 GB |  |",
        "| - matrix products | 60.00 GB |  |",
        "| kernels | 10 |  |",
        "| FLOPs executed | 75.0% |  |",
        "| MFU, predicted | 48.2% |  |",
        "| compiled in | 31 s |  |",
    ):
        assert first.count(row + "\n") == 1, row
    assert record.run(argv) == 0 and document.read_text() == first
