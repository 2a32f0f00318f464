"""The benchmarks run, at sizes that measure nothing, and print what they promise."""

import importlib
import json
import os
import shlex
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest

from mmjax.cli import main, runtime
from mmjax.config import recipe
from mmjax.errors import UserError
from tests.helpers import runs

BENCHMARKS = runs.ROOT / "benchmarks"


def lines(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture
def module(monkeypatch):
    """Imports a file of the benchmarks."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    with mock.patch.dict(os.environ):
        yield importlib.import_module


def printed(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


@pytest.mark.full
def test_loss():
    done = runs.python(
        "benchmarks/loss.py", "--mesh=1x2x1", "--batches=2**6,128", "--time-batch=64", "--width=8", "--block-size=16",
        "--rounds=2", "--kinds=softmax", "--ids=shared", cwd=runs.ROOT,
    )  # fmt: skip
    result = lines(done)
    memory = {(line["batch"], line["impl"]) for line in result if "temporaries_gb" in line}
    assert memory == {(batch, impl) for batch in (64, 128) for impl in ("dense", "gather", "ring")}
    times = {line["impl"]: line for line in result if "ratio" in line}
    assert set(times) == {"dense", "gather", "ring"} and times["dense"]["ratio"] == 1.0
    assert all(0 < line["seconds_min"] <= line["seconds"] <= line["seconds_max"] for line in times.values())


def test_retrieval():
    done = runs.python(
        "benchmarks/retrieval.py", "--images=30", "--captions-per-image=3", "--width=8", "--likeness=1", "--rounds=2",
        cwd=runs.ROOT,
    )  # fmt: skip
    result = {line["contender"]: line for line in lines(done)}
    assert set(result) == {"sort", "mmjax"} and result["sort"]["ratio"] == 1.0
    for side in ("image", "text"):
        recalls = {line[f"{side}_retrieval_recall@1"] for line in result.values()}
        assert len(recalls) == 1 and 0 < recalls.pop() <= 1
    assert all(line["peak_gb"] > 0 and line["seconds_min"] <= line["seconds"] for line in result.values())


@pytest.mark.full
def test_digests(tmp_path):
    done = runs.python("benchmarks/digests.py", "--megabytes=1", "--rounds=1", f"--folder={tmp_path}", cwd=runs.ROOT)
    (line,) = lines(done)
    assert 0.9e6 < line["bytes"] < 1e6 and line["alone"]["seconds"] > 0
    assert 0 < line["training_waits"]["seconds"] < line["save"]["seconds"]
    assert line["ratio"] > -1 and not any(tmp_path.iterdir())


def test_decoding():
    done = runs.python(
        "benchmarks/decoding.py", "--jpegs=32x30@90", "--batch=4", "--output-size=16", "--rounds=1", cwd=runs.ROOT
    )
    result = {line["contender"]: line for line in lines(done)}
    assert set(result) == {"host", "device", "device, Pillow", "decode"} and result["host"]["ratio_to_host"] == 1.0
    assert all(line["images_per_second"] > 0 and line["frame"] == 32 for line in result.values())


def test_attention():
    done = runs.python(
        "benchmarks/attention.py", "--cases=9x2,10x2:causal,20x2:packed", "--batch=2", "--rounds=1", cwd=runs.ROOT
    )
    result = lines(done)
    assert [(line["length"], line["mask"], line["kernel"]) for line in result] == [
        (9, "none", "xla"), (10, "causal", "xla"), (20, "packed", "xla")
    ]  # fmt: skip
    assert all(line["seconds"] > 0 and line["filled"] == line["length"] for line in result)


# -- the train step ----------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_train_step():
    done = runs.python(
        "benchmarks/train_step.py", "--models=tiny,tiny", "--batch=8,16", "--rounds=2", "--steps=1", "--trace",
        "--config.loss.impl=ring", "--config.data.pack_texts=on", "--beside=data.pack_texts=off", cwd=runs.ROOT,
    )  # fmt: skip
    result = lines(done)
    kinds = [line["benchmark"] for line in result]
    assert kinds == 2 * (["train_step_alone"] * 2 + ["train_step"] * 2 + ["train_step_trace"] * 2)
    names = ["mmjax", "mmjax, data.pack_texts=off"]
    steps = [line for line in result if line["benchmark"] == "train_step"]
    assert [(line["batch"], line["implementation"]) for line in steps] == [(n, name) for n in (8, 16) for name in names]
    for line in steps:
        assert "loss ring" in line["settings"] and line["memory_gb"] > 0
        assert line["images_per_second"] == pytest.approx(line["batch"] / line["seconds"], rel=1e-2)
        assert ("packed into" in line["settings"]) == (line["implementation"] == "mmjax")
    # The model's own count, less what the first layer need not do and more for the loss: packing has its own.
    assert [line["executed_share"] for line in steps[1::2]] == pytest.approx([1, 1], abs=0.05)
    assert steps[2]["executed_share"] != pytest.approx(1, abs=0.05)
    assert all("no kernel of a device" in line["error"] for line in result if line["benchmark"] == "train_step_trace")


class Contender:
    """Stands for a step; one of a batch of `FULL` finds no memory."""

    FULL = 16

    def __init__(self, config, shared, name, steps, options):
        self.config, self.name, self.options = config, name, options

    def run(self):
        if self.config.batch_size == self.FULL:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nmore lines")

    def facts(self):
        return {"memory_gb": 1.0, "options": self.options}

    def classes(self):
        return {}


@pytest.mark.full
def test_a_model_without_memory_is_a_line_and_the_next_one_goes_on(module, capsys):
    train_step, our_step = module("train_step"), module("our_step")
    with mock.patch.object(our_step, "OurStep", Contender), mock.patch.object(runtime, "prepare"):
        flags = ["--models=tiny,tiny,tiny", "--batch=8,16,32", "--beside=seed=1", "--rounds=2", "--steps=1"]
        assert train_step.run(flags) == 0
    result = [line for line in printed(capsys) if line["benchmark"] == "train_step"]
    assert [(line["batch"], line["implementation"], line.get("error")) for line in result] == [
        (8, "mmjax", None),
        (8, "mmjax, seed=1", None),
        (16, "mmjax", "out of memory: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
        (16, "mmjax, seed=1", "out of memory: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
        (32, "mmjax", None),
        (32, "mmjax, seed=1", None),
    ]


def test_another_error_is_no_lack_of_memory(module):
    train_step, our_step = module("train_step"), module("our_step")
    broken = mock.Mock(side_effect=RuntimeError("INTERNAL: a kernel failed"))
    with (
        mock.patch.object(our_step, "OurStep", broken),
        mock.patch.object(runtime, "prepare"),
        pytest.raises(RuntimeError, match="a kernel failed"),
    ):
        train_step.run(["--models=tiny", "--batch=8"])


@pytest.mark.parametrize(("as_users", "other"), [(True, False), (False, True)])
def test_on_a_gpu_both_values_of_deterministic_are_rows(module, capsys, as_users, other):
    train_step, our_step = module("train_step"), module("our_step")
    gpu = mock.Mock(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")
    with (
        mock.patch.object(our_step, "OurStep", Contender),
        mock.patch.object(runtime, "prepare"),
        mock.patch("jax.devices", lambda: [gpu]),
        mock.patch("jax.device_count", lambda: 1),
    ):
        flags = ["--models=tiny", "--batch=8", "--rounds=2", f"--config.deterministic={as_users}"]
        assert train_step.run(flags) == 0
    result = [line for line in printed(capsys) if line["benchmark"] == "train_step"]
    assert [(line["implementation"], line["options"]) for line in result] == [
        ("mmjax", {}),
        (f"mmjax, deterministic={other}", {"xla_gpu_deterministic_ops": other}),
    ]
    assert all(line["mfu"] > 0 for line in result)


def test_settings_share_a_state_that_a_failed_step_takes_with_it(module):
    class Setup:
        def __init__(self, width):
            self.state = {"kernel": jax.ShapeDtypeStruct((width,), np.float32)}

        def make_state(self, seed):
            return jax.tree.map(lambda shape: jax.numpy.full(shape.shape, seed, shape.dtype), self.state)

    shared = module("our_step").Shared()
    shared.make(Setup(3), 1, "")
    first = shared.state
    shared.make(Setup(3), 2, "attention=xla")
    assert shared.state is first
    first["kernel"].delete()
    shared.make(Setup(3), 2, "attention=xla")
    assert shared.state["kernel"].tolist() == [2, 2, 2]
    with pytest.raises(UserError, match="--beside=model.embed_dim=4: it changes the train state"):
        shared.make(Setup(4), 2, "model.embed_dim=4")


def test_captions_have_real_lengths(module):
    text = recipe.load_recipe("clip:variant=B/32").model.text
    ids = module("our_step").caption_ids(text, 20_000, np.random.default_rng(0))
    assert ids.shape == (20_000, 77) and ids.dtype == np.int32 and ids.max() == text.eos_id
    assert np.all((ids == text.eos_id).sum(axis=1) == 1) and np.all(ids[:, 0] == 49406)
    lengths = np.argmax(ids == text.eos_id, axis=1) + 1
    assert lengths.mean() == pytest.approx(18, abs=0.3) and lengths.std() == pytest.approx(10.5, abs=0.5)
    after = np.arange(77) >= lengths[:, None]
    assert not ids[after].any() and np.all(ids[~after] > 0)


# -- the scripts -------------------------------------------------------------------------------------------------------


def bash(*command, **environment):
    return subprocess.run(
        ["bash", *map(str, command)], cwd=runs.ROOT, env=os.environ | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_can_be_read(script):
    assert bash("-n", script).returncode == 0
    assert os.access(script, os.X_OK)


def commands(script, *arguments):
    """What a script would run: words after the interpreter."""
    done = bash(BENCHMARKS / script, "--dry-run", *arguments, PYTHON="PYTHON")
    assert done.returncode == 0, done.stderr
    words = [shlex.split(line) for line in done.stdout.splitlines()]
    return [item[item.index("PYTHON") + 1 :] for item in words]


def test_one_gpu_runs_what_there_is(module):
    measured = {}
    for first, *rest in commands("one_gpu.sh"):
        if first == "-m":
            assert rest[:1] == ["pytest"] and "gpu" in rest
            files = [word for word in rest if word.endswith(".py")]
            assert "tests/nn/test_attention_kernels.py" in files and all((runs.ROOT / file).is_file() for file in files)
            continue
        assert first.startswith("benchmarks/")
        result = module(first.removeprefix("benchmarks/").removesuffix(".py"))
        if result.__name__ == "record":
            assert result.make_parser().parse_known_args(rest)[1] == []
            continue
        with mock.patch.object(result, "measure") as measure, mock.patch.object(runtime, "prepare"):
            assert result.run(rest) == 0
        for call in measure.call_args_list:
            measured.setdefault(result.__name__, []).append(call.args)
    assert {(197, 12, ""), (77, 8, "causal"), (80, 8, "packed")} <= {args[:3] for args in measured["attention"]}
    steps = [(model, config.batch_size, options.peer) for model, config, _, options in measured["train_step"]]
    assert {("B/32", 512, "open_clip"), ("B/16", 256, "open_clip"), ("L/14", 96, "open_clip")} <= set(steps)
    besides = {name for _, _, others, _ in measured["train_step"] for name in others}
    assert besides == {"attention=xla", "data.pack_texts=off", "model.image.remat=dots,model.text.remat=dots"}


def test_compiled_plans_what_there_is(module):
    planned = []
    for first, *rest in commands("compiled.sh"):
        if first == "-c":
            assert rest[0].endswith("sys.exit(main())")
            with mock.patch("mmjax.plan.plan_recipe.run", return_value=0) as run, mock.patch.object(runtime, "prepare"):
                assert main.main(rest[1:]) == 0
            config, topology = run.call_args.args
            assert run.call_args.kwargs["text_length"] == "18"
            planned.append((topology, config.variant, config.batch_size, run.call_args.kwargs["output"]))
        else:
            options, unknown = module("record").make_parser().parse_known_args(rest)
            assert not unknown and options.files == [output for *_, output in planned]
    assert [item[:3] for item in planned] == [
        *(("h100:1", model, 256) for model in ("B/32", "B/16", "L/14")), ("v5e:2x2", "B/16", 512)
    ]  # fmt: skip
    assert len(commands("compiled.sh", "h100:8=L/14@2048")) == 2
    refused = bash(BENCHMARKS / "compiled.sh", "--dry-run", "h100:1=B/16")
    assert refused.returncode == 2 and "h100:1=B/16: wants TOPOLOGY=MODEL@BATCH" in refused.stderr


def test_one_gpu_keeps_what_a_part_has_told_before_its_time_is_up(tmp_path):
    """With a Python that plays the parts."""
    message = dict(date="2026-11-28", benchmark="train_step_alone", model="B/16", batch=256, device="GPU",
                implementation="mmjax", seconds=0.08)  # fmt: skip
    line = json.dumps(message)
    stand_in = tmp_path / "python"
    stand_in.write_text(f"""#!/usr/bin/env bash
case "$*" in
  -c*|*record.py*) exec {shlex.quote(sys.executable)} "$@" ;;
  *attention.py*) echo broken >&2; exit 3 ;;
  *pytest*) echo '..'; echo '2 passed' ;;
  *) echo 'texts are packed'; echo {shlex.quote(line)}; printf '{{"half'; exec sleep 60 ;;
esac
""")
    stand_in.chmod(0o755)
    document = tmp_path / "benchmarks.md"
    document.write_text("# Benchmarks\n")
    done = bash(
        BENCHMARKS / "one_gpu.sh", PYTHON=str(stand_in), OUT=str(tmp_path / "out"), RECORD=str(document), LIMIT="3",
        LEAST="1", WHEELS="none",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = [json.loads(text) for text in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert message in result
    parts = {item["part"]: (item["status"], item["says"]) for item in result if "part" in item}
    assert parts["attention"] == (3, "broken") and parts["tests"] == (0, "2 passed")
    assert parts["b16"][0] == 124 and parts["b16"][1].startswith("stopped after its")
    assert parts["l14"][1].startswith("left out: ") and set(parts) >= {"b32", "b16_settings", "large"}
    assert "| B/16 | 256 | mmjax | 3,200 |" in document.read_text()


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("train_step", ["--models=B/33"], "did you mean 'B/32'"),
        ("train_step", ["--models=tiny", "--batch=9", "--config.microbatch=2"], "batch_size=9 does not divide"),
        ("train_step", ["--models=tiny,tiny", "--batch=8,8,8"], "--batch=8,8,8: 3 batches for 2 models"),
        ("train_step", ["--models=tiny", "--batch=many"], "--batch=many: wants a whole number of at least 1"),
        ("train_step", ["--models=tiny", "--rounds=0"], "--rounds=0: wants a whole number of at least 1"),
        ("train_step", ["--models=tiny", "--beside=attention"], "--beside=attention: wants FIELD=VALUE"),
        ("train_step", ["--models=tiny", "--beside=atention=xla"], "did you mean 'attention'"),
        ("train_step", ["--models=tiny", "--beside=xla_flags=--x"], "xla_flags is the same for all rows"),
        ("train_step", ["--models=B/32,tiny", "--peer=open_clip"], "of --models=tiny it has none"),
        ("attention", ["--cases=50"], "--cases=50: wants LENGTHxHEADS"),
        ("attention", ["--cases=50x12:casual"], "--cases=50x12:casual: wants LENGTHxHEADS"),
        ("record", ["missing.jsonl"], "missing.jsonl: No such file"),
        ("record", [__file__], "neither JSON lines of a benchmark nor the JSON of a plan"),
        ("retrieval", ["--images=0"], "--images=0: wants at least 1"),
        ("digests", ["--rounds=0"], "--rounds=0: wants at least 1"),
        ("decoding", ["--jpegs=256@95"], "--jpegs=256@95: wants"),
        ("loss", ["--mesh=8x1"], "--mesh=8x1: wants"),
        ("loss", ["--batches=2**x"], "--batches=2**x: wants"),
        ("loss", ["--kinds=softmaxx"], "did you mean 'softmax'"),
        ("loss", ["--time-batch=12"], "12 does not divide over the 8 devices"),
        ("loss", ["--config.steps=3"], "--config.steps: this benchmark reads no config"),
    ],
)
def test_a_mistake_is_one_line(script, flags, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(runs.ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *flags])
    with mock.patch.dict(os.environ):
        status = importlib.import_module(script).main()
    error = capsys.readouterr().err
    assert status == 2 and message in error and len(error.strip().splitlines()) == 1
