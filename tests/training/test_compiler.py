"""What the compiler is told: flags by platform and version, memory, determinism."""

import os
import subprocess
import sys

import jax
import jaxlib
import ml_collections
import pytest

from mmjax.config import overrides, schema, serialize
from mmjax.errors import UserError
from mmjax.training import compiler

LATENCY = "--xla_gpu_enable_latency_hiding_scheduler"
EARLY = "--xla_gpu_experimental_collective_start_as_early_as_possible"
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def names(flags: str) -> list[str]:
    return [flag.partition("=")[0] for flag in flags.split()]


@pytest.mark.parametrize(
    ("jaxlib_version", "known"),
    [
        ("0.9.2", ()),
        ("0.10.0", (LATENCY,)),
        ("0.10.2", (LATENCY, EARLY)),
        ("0.11.2", (LATENCY, EARLY)),
        ("0.12.0", (LATENCY, EARLY)),
        ("0.13.0", ()),
    ],
)
def test_flags_are_those_that_a_version_knows(jaxlib_version, known):
    result = names(compiler.xla_flags("gpu", jaxlib_version))
    assert set(result) & {LATENCY, EARLY} == set(known) and bool(result) == bool(known)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_other_platforms_get_none(platform):
    assert compiler.xla_flags(platform, "0.10.2") == ""
    assert compiler.xla_flags(platform, "0.10.2", from_config="--a=1", environment="--b=2") == "--a=1 --b=2"


def test_what_a_user_sets_wins():
    flags = compiler.xla_flags(
        "gpu", "0.10.2", from_config=f"{LATENCY}=false --a=1", environment=f"{EARLY}=false --a=2"
    )
    assert f"{LATENCY}=true" not in flags and f"{EARLY}=true" not in flags
    assert flags.endswith(f"{LATENCY}=false --a=1 {EARLY}=false --a=2")  # the last of two counts
    flags = compiler.xla_flags("gpu", "0.10.2", deterministic=True, environment="--xla_gpu_deterministic_ops=false")
    assert DETERMINISTIC not in flags


@pytest.mark.parametrize(
    ("value", "on"),
    [("auto", {"gpu": False, "tpu": True, "cpu": True}), (True, dict.fromkeys(("gpu", "tpu", "cpu"), True))],
)
def test_determinism_by_platform(value, on):
    assert {platform: compiler.is_deterministic(value, platform) for platform in on} == on
    assert not compiler.is_deterministic(False, "cpu")
    flags = compiler.xla_flags("gpu", "0.10.2", deterministic=value)
    assert (DETERMINISTIC in flags) == on["gpu"]


def test_the_log_says_which():
    config = schema.base_config()
    assert compiler.describe(config, "cpu").startswith("deterministic: ")
    assert compiler.describe(config, "gpu").startswith("not deterministic: ")
    config.deterministic = True
    assert compiler.describe(config, "gpu").startswith("deterministic: ")


def test_flags_of_an_unknown_version_are_missed(monkeypatch):
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda name: "0.99.0")
    assert "no XLA flags are known here for jaxlib 0.99.0" in compiler.describe(schema.base_config(), "gpu")


def settings(**changes):
    return ml_collections.ConfigDict(dict(xla_flags="", deterministic="auto", compilation_cache="") | changes)


@pytest.mark.parametrize(
    ("platform", "training", "variables", "fraction"),
    [
        ("gpu", True, {}, "0.92"),
        ("gpu", False, {}, None),  # an evaluation may share the GPU
        ("cpu", True, {}, None),
        ("gpu", True, {"XLA_CLIENT_MEM_FRACTION": "0.5"}, "0.5"),
        ("gpu", True, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, None),  # jax refuses both
    ],
)
def test_a_training_run_takes_a_gpus_memory(platform, training, variables, fraction, monkeypatch):
    for name in (*compiler.MEMORY_VARIABLES, "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    compiler.set_environment(settings(), platform, training=training)
    assert os.environ.get("XLA_CLIENT_MEM_FRACTION") == fraction


def test_flags_go_where_they_are_read(monkeypatch):
    monkeypatch.setattr(os, "environ", {"LIBTPU_INIT_ARGS": "--c", "XLA_FLAGS": "--d"})
    compiler.set_environment(settings(xla_flags="--xla_tpu_a=1 --b=2"), "tpu")
    assert os.environ == {"LIBTPU_INIT_ARGS": "--xla_tpu_a=1 --c", "XLA_FLAGS": "--b=2 --d"}


def test_the_platform_that_is_expected(monkeypatch):
    expected = lambda **variables: compiler.expected_platform(variables)
    assert expected(JAX_PLATFORMS="cuda,cpu") == "gpu" and expected(JAX_PLATFORMS="cpu") == "cpu"
    assert expected(JAX_PLATFORMS="tpu") == "tpu" and expected(JAX_PLATFORM_NAME="gpu") == "gpu"
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: name == "jax_cuda12_plugin")
    assert expected() == "gpu" and expected(JAX_PLATFORMS="cpu") == "cpu"
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    assert expected() == "cpu"


@pytest.mark.parametrize(
    "maker, environment, plugin, chosen",
    [
        ("0x8086", {}, None, "cpu"),
        ("0x1ae0", {}, None, None),
        ("0x8086", {"JAX_PLATFORMS": "tpu"}, None, "tpu"),
        ("0x8086", {"JAX_FORCE_TPU_INIT": "1"}, None, None),
        ("0x8086", {}, "jax_plugins", None),
    ],
)
def test_libtpu_is_left_alone_where_there_is_no_tpu(monkeypatch, tmp_path, maker, environment, plugin, chosen):
    (tmp_path / "0000:00:01.0").mkdir()
    (tmp_path / "0000:00:01.0" / "vendor").write_text(f"{maker}\n")
    monkeypatch.setattr(compiler, "_PCI_DEVICES", tmp_path)
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: plugin if name == plugin else None)
    monkeypatch.setattr(os, "environ", environment)
    updated = {}
    monkeypatch.setattr(jax.config, "update", updated.__setitem__)  # jax is imported, and has read its variable
    compiler.set_environment(settings())
    assert environment.get("JAX_PLATFORMS") == chosen
    assert updated == ({"jax_platforms": "cpu"} if chosen == "cpu" else {})


def test_this_jaxlib_knows_its_flags():
    """XLA ends a process at a flag that it does not know."""
    assert compiler.gpu_flags(jaxlib.__version__), "tell mmjax/training/compiler.py which flags this jaxlib knows"
    flags = compiler.xla_flags("gpu", jaxlib.__version__, deterministic=True)
    code = "import jax; jax.jit(lambda x: x + 1)(1)"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment["XLA_FLAGS"] += " --xla_gpu_no_such_flag=true"
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode != 0


def test_tuned_kernels_are_kept_beside_compiled_programs(tmp_path, monkeypatch):
    message = {}
    monkeypatch.setattr(jax.config, "update", message.__setitem__)
    compiler.set_compilation_cache(settings(compilation_cache=str(tmp_path)))
    assert message == {"jax_compilation_cache_dir": str(tmp_path)}
    assert jax.config.jax_persistent_cache_enable_xla_caches == "xla_gpu_per_fusion_autotune_cache_dir"
    message.clear()
    compiler.set_compilation_cache(settings(compilation_cache="auto"))  # on a CPU
    compiler.set_compilation_cache(settings(compilation_cache=""))
    assert not message


def test_deterministic_is_auto_true_or_false():
    config = schema.base_config()
    assert config.deterministic == "auto"
    for text, value in [("true", True), ("False", False), ("auto", "auto"), ("'auto'", "auto")]:
        overrides.apply(config, [("deterministic", text)])
        assert config.deterministic == value and type(config.deterministic) is type(value)
        assert serialize.from_json(serialize.to_json(config)).deterministic == value
    config.deterministic = True  # as recipes set it
    for text in ("maybe", "1", "none", "Auto"):
        with pytest.raises(
            UserError, match=f"--config.deterministic={text}: wants true, false or auto, and has True now"
        ):
            overrides.apply(config, [("deterministic", text)])
    assert config.deterministic is True


def test_a_stored_run_stays_what_it_was():
    stored = schema.base_config()
    stored.deterministic = True  # what every run had before there was `auto`
    assert serialize.from_json(serialize.to_json(stored)).deterministic is True
