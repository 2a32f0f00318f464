"""Topologies of GPUs: their names, what must be set before jax starts, and what jax asks of a GPU that is not there."""

import importlib.util
import os
import types

import pytest

from mmjax.errors import UserError
from mmjax.plan import cudnn, gpu_targets, program, topology
from mmjax.training import compiler, device_specs
from tests.helpers import runs
from tests.helpers.programs import CHIP, compiled_plan


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h10:8", "--topology=h10:8: the chip 'h10' is not known (did you mean 'h100'?); e.g. v4:4x4x4"),
        ("h100", "--topology=h100: give the GPUs of a host, or hosts x GPUs; write it like h100:8 or h100:4x8"),
        ("h100:0", "write it like h100:8"),
        ("a100:2x4x8", "write it like a100:8 or a100:4x8"),
        ("b200:8x", "write it like b200:8"),
    ],
)
def test_mistakes_in_a_name_are_told(name, message):
    with pytest.raises(UserError) as error:
        topology.check_name(name)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_good_names():
    assert [topology.is_gpu(topology.check_name(name)) for name in ("h100:8", "h200:4x8", "v5e:2x2")] == [1, 1, 0]


def test_the_environment_is_that_of_the_compiler(monkeypatch):
    for name in ("JAX_PLATFORMS", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "TPU_LOG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    topology.set_environment("v5e:2x2")
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x" and os.environ["TPU_LOG_DIR"] == "disabled"
    assert "JAX_SKIP_CUDA_CONSTRAINTS_CHECK" not in os.environ
    for _ in range(2):
        topology.set_environment("h100:8")
        assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x --xla_gpu_autotune_level=0"
    assert os.environ["JAX_PLATFORMS"] == "cpu" and os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] == "1"


def test_without_the_plugin_it_says_how_to_get_it(plan, monkeypatch):
    find = importlib.util.find_spec
    missing = lambda name, *args: None if name.startswith("jax_cuda") else find(name, *args)
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    status, _, error = plan("--topology=h100:8")
    assert status == 2 and "pip install 'mmjax[plan-gpu]'" in error and error.count("\n") == 1


@pytest.mark.parametrize("name", gpu_targets.TARGETS)
def test_every_target_has_its_data_sheet(name):
    target = gpu_targets.TARGETS[name]
    device = device_specs.find(target.kind)
    assert device.memory == target.memory and device.memory_bandwidth == pytest.approx(target.bandwidth, rel=0.01)
    assert device.link_bandwidth > device.network_bandwidth > 0 and device.flops > 10 * device.float32_flops > 0
    assert device.sustained.measured == (name == "h100")
    assert target.text().count("{") == target.text().count("}")
    assert f'device_description_str: "{target.kind}"' in target.text()


def gpu(capability):
    return types.SimpleNamespace(platform="gpu", compute_capability=capability)


def test_questions_of_fused_attention_are_answered_for_the_topology_and_then_no_more():
    from jax._src.cudnn import fused_attention_stablehlo as module

    before = module.check_compute_capability, module.is_cuda_compute_capability_equal, module.check_cudnn_version
    with cudnn.answers_for(gpu("9.0")):
        assert module.check_cudnn_version() >= 91000
        results = {capability: module.check_compute_capability(capability) for capability in ("8.0", "9.0", "10.0")}
        assert results == {"8.0": True, "9.0": True, "10.0": False}
        assert module.is_cuda_compute_capability_equal("9.0") and not module.is_cuda_compute_capability_equal("10.3")
    with pytest.raises(ZeroDivisionError), cudnn.answers_for(gpu("10.0")):
        assert module.check_compute_capability("9.0")
        raise ZeroDivisionError
    after = module.check_compute_capability, module.is_cuda_compute_capability_equal, module.check_cudnn_version
    assert after == before
    with cudnn.answers_for(types.SimpleNamespace(platform="tpu")):
        assert module.check_compute_capability is before[0]


def test_a_jax_that_asks_otherwise_is_an_error(monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as module

    monkeypatch.delattr(module, "check_compute_capability")
    message = r"jax .* checks fused attention in a way that mmjax plan does not know"
    with pytest.raises(UserError, match=message), cudnn.answers_for(gpu("9.0")):
        pass


def fake_setup(platform):
    mesh = types.SimpleNamespace(devices=types.SimpleNamespace(flat=[types.SimpleNamespace(platform=platform)]))
    return types.SimpleNamespace(mesh=mesh, device=CHIP)


def test_a_program_has_what_jax_takes_of_a_gpu(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    assert program.capacity(fake_setup("tpu")) == (1e9, 1.0)
    assert program.capacity(fake_setup("gpu")) == (0.92e9, 0.92)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert program.capacity(fake_setup("gpu")) == (0.9e9, 0.9)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "92")
    with pytest.raises(UserError, match="XLA_CLIENT_MEM_FRACTION=92: give the share"):
        program.capacity(fake_setup("gpu"))


@pytest.mark.full
@pytest.mark.parametrize("name", ["h100:4", "h100:2x2", "a100:4", "h200:4", "b200:4"])
def test_a_gpu_that_is_not_there(name, tmp_path):
    """The GPU compiler itself, where its plugin is installed; the tiny recipe in bfloat16 on four GPUs."""
    if not any(importlib.util.find_spec(plugin) for plugin in topology.PLUGINS):
        pytest.skip("jax's CUDA plugin is not installed")
    flags = [f"--config={runs.RECIPE}", f"--topology={name}", "--config.data.train=", "--config.mesh.fsdp=2"]
    flags += ["--config.precision=bfloat16", "--budget=1e6"]
    # In a loop every layer is computed for all tokens, which is what the model's count is of.
    flags += ["--config.model.image.scan=True", "--config.model.text.scan=True"]
    without = ("XLA_FLAGS", "JAX_PLATFORMS", *compiler.MEMORY_VARIABLES)
    made, printed = compiled_plan(tmp_path, *flags, without=without)
    assert made["device"] in topology.GPUS[name.partition(":")[0]].kind and made["chips"] == 4
    assert made["memory"]["capacity"] == int(compiler.GPU_MEMORY * made["device_memory"]) > made["memory"]["total"]
    assert 0.9 < made["flops"]["chip"] * 4 / made["flops"]["model"] < 3 and not made["unknown_loops"]
    classes = {row["kind"]: row for row in made["kernels"]}
    # The step is lowered for the GPU: attention is cuDNN's, forward and backward in both towers.
    assert classes["attention"]["kernels"] == 4 and classes["products"]["flops"] > classes["attention"]["flops"]
    assert sum(row["bytes"] for row in made["kernels"]) == made["hbm_bytes"] > 0
    assert made["gradient_reductions"]["bytes"] > 0 and made["prediction"]["step"] > made["roofline"]["step"]
    assert any(row["network_bytes"] for row in made["collectives"]) == ("x" in name)
    assert "predicted" in printed and "fused attention" in printed
