"""metrics.jsonl, TensorBoard, Weights & Biases, the terminal, and how fast it goes."""

import fcntl
import hashlib
import importlib.util
import io
import os
import pty
import shutil
import struct
import sys
import termios
import time
import types
import uuid
from unittest import mock

import pytest

from mmjax import registry
from mmjax.config import parse
from mmjax.errors import UserError
from mmjax.io import paths
from mmjax.training import device_specs, metrics_log, tensorboard_writer, validate_run, wandb_writer
from mmjax.training.config import LogConfig
from tests.helpers import runs


class TestMetricsFile:
    @pytest.fixture(params=["local", "memory"])
    def path(self, request, tmp_path):
        folder = tmp_path if request.param == "local" else paths.as_path(f"memory://logs-{uuid.uuid4().hex}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / "metrics.jsonl"

    def write(self, path, *steps):
        file = metrics_log.MetricsFile(path)
        for step in steps:
            file.write({"step": step, "kind": "train", "loss": step / 2})
        file.flush()
        return file

    def test_lines_are_there_and_go_on(self, path):
        self.write(path, 1, 2)
        file = self.write(path, 3)
        assert [line["step"] for line in file.lines()] == [1, 2, 3]
        assert path.read_text().splitlines()[0] == '{"step": 1, "kind": "train", "loss": 0.5}'

    def test_lines_past_a_step_are_dropped(self, path):
        file = self.write(path, 1, 2, 3)
        file.drop_after(2)
        file.write({"step": 3, "kind": "eval"})
        file.flush()
        assert [(line["step"], line["kind"]) for line in metrics_log.MetricsFile(path).lines()] == [
            (1, "train"),
            (2, "train"),
            (3, "eval"),
        ]

    def test_each_step_stands_once_a_kind(self, path, capsys):
        file = self.write(path, 1, 2, 2, 1)
        file.write({"step": 2, "kind": "eval"})
        file.flush()
        file.drop_after(2)
        assert sorted((line["kind"], line["step"]) for line in file.lines()) == [
            ("eval", 2),
            ("train", 1),
            ("train", 2),
        ]
        assert not capsys.readouterr().out

    @pytest.mark.parametrize(
        "foreign", [b"not JSON", b'{"step": "1"}', b"\xff\x00", b"[1]", b'{"step": 1, "kind": "train", "loss": NaN}']
    )
    def test_lines_that_no_run_wrote_are_named_and_kept_elsewhere(self, foreign, path, capsys):
        self.write(path, 1, 2)
        content = path.read_bytes()
        path.write_bytes(foreign + b"\n" + content + b'{"step": 3, "ki')  # which a kill left
        metrics_log.MetricsFile(path).drop_after(2)
        assert path.read_bytes() == content
        assert (path.parent / "metrics.jsonl.damaged").read_bytes().startswith(foreign)
        (line,) = capsys.readouterr().out.splitlines()
        assert "metrics.jsonl: 1 lines" in line and "line 1" in line

    def test_an_evaluation_that_is_made_again_is_dropped(self, path):
        file = self.write(path, 1, 2)
        file.write({"step": 2, "kind": "eval"})
        file.flush()
        file.drop_after(2, evaluated=True)
        assert [line["kind"] for line in file.lines()] == ["train", "train", "eval"]
        file.drop_after(2, evaluated=False)
        assert [line["kind"] for line in file.lines()] == ["train", "train"]

    @pytest.mark.parametrize("rest", ['{"step": 3, "ki', '{"step": 3, "kind": "train", "loss": 1.', "12", "\0\0"])
    def test_a_line_that_a_kill_cut_off(self, path, rest):
        self.write(path, 1, 2)
        path.write_text(path.read_text() + rest)
        file = metrics_log.MetricsFile(path)
        file.drop_after(9)
        file.write({"step": 3, "kind": "train"})
        file.flush()
        assert [line["step"] for line in file.lines()] == [1, 2, 3]
        assert path.read_text().count("\n") == 3

    def test_not_a_number_is_refused(self, path):
        with pytest.raises(ValueError, match="(?i)json compliant"):
            self.write(path, float("nan"))
        assert not path.exists() or path.read_text() == ""


class TestTerminal:
    def logger(self, tmp_path, terminal):
        stream = io.StringIO()
        stream.isatty = lambda: terminal
        logger = metrics_log.Logger(tmp_path, LogConfig(), name="tiny", steps=100, fields={})
        with mock.patch.object(sys, "stderr", stream):
            logger.resume(0)
            for step in (1, 2):
                logger.progress(step)
                logger.write(
                    step, "train", {"loss": 2.5, "accuracy": 0.25, "images_per_second": 10.0, "step_time": 36.0}
                )
            logger.close()
        return stream.getvalue()

    def test_a_bar(self, tmp_path, capsys):
        bar = self.logger(tmp_path, True)
        assert "2/100" in bar and "loss=2.5" in bar
        assert "step 1/100" not in capsys.readouterr().out

    def test_a_terminal_without_columns_gets_lines(self):
        """As in containers and editors that do not say how wide they are: a bar would be empty."""
        controller, terminal = pty.openpty()
        try:
            with os.fdopen(terminal, "w") as stream:
                for columns, has_bar in ((0, False), (80, True)):
                    fcntl.ioctl(stream, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
                    assert metrics_log._is_terminal(stream) == has_bar
        finally:
            os.close(controller)

    def test_lines(self, tmp_path, capsys):
        assert self.logger(tmp_path, False) == ""
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "step 1/100  loss 2.5000  acc 0.25  img/s 10  left 59m24s" and len(lines) == 2

    @pytest.mark.parametrize(
        ("seconds", "message"), [(0.2, "0m01s"), (61, "1m01s"), (3600, "1h00m"), (90000, "25h00m")]
    )
    def test_duration(self, seconds, message):
        assert metrics_log._duration(seconds) == message


class TestTensorBoard:
    @pytest.mark.parametrize("kind", ["local", "memory"])
    def test_a_run_that_goes_on_within_the_same_second(self, kind, tmp_path):
        """Its numbers lie beside those of the process before it, not in their place."""
        folder = tmp_path if kind == "local" else paths.as_path(f"memory://board-{uuid.uuid4().hex}")
        with mock.patch.object(time, "time", return_value=1.7e9):
            for step in (0, 5):
                board = tensorboard_writer.TensorBoard(folder, settings=LogConfig(), name="tiny", fields={})
                board.resume(step, evaluated=True)
                board.write(step + 1, "train", {"loss": 2.5})
                board.close()
        first, second = sorted((folder / "tensorboard").iterdir(), key=lambda file: file.name)
        assert first.name.startswith("events.out.tfevents.1700000000.")
        assert first.stat().st_size < second.stat().st_size  # the second hides what the first has from step 6 on


class TestWandb:
    def test_asked_for_but_not_installed(self, tmp_path):
        with (
            mock.patch.dict(sys.modules, wandb=None),
            pytest.raises(UserError, match=r"log.wandb_project='mine': needs wandb; pip install 'mmjax\[wandb\]'"),
        ):
            validate_run.check_config(parse(runs.config(log__wandb_project="mine")))

    def test_installed(self, tmp_path):
        module = types.ModuleType("wandb")
        module.__spec__ = importlib.util.spec_from_loader("wandb", None)
        run = mock.Mock()
        module.init = mock.Mock(return_value=run)
        settings = LogConfig(wandb_project="mine")
        with mock.patch.dict(sys.modules, wandb=module):
            logger = metrics_log.Logger(tmp_path, settings, name="tiny", steps=100, fields={"batch_size": 16})
            logger.resume(0)
            logger.write(1, "train", {"loss": 2.5})
            logger.close()
        assert module.init.call_args.kwargs["project"] == "mine" and module.init.call_args.kwargs["name"] == "tiny"
        run_id = module.init.call_args.kwargs["id"]
        assert run_id == (tmp_path / "wandb_run_id").read_text()
        assert run_id != hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]  # older code's
        assert module.init.call_args.kwargs["config"]["batch_size"] == 16
        run.log.assert_called_once_with({"train/loss": 2.5}, step=1)
        run.finish.assert_called_once()

    @pytest.fixture
    def new_id(self, monkeypatch):
        """Starts a writer on a workdir; returns W&B's id of the run."""
        module = types.ModuleType("wandb")
        module.init = mock.Mock()
        monkeypatch.setitem(sys.modules, "wandb", module)

        def start(workdir):
            wandb_writer.WandB(workdir, settings=LogConfig(wandb_project="mine"), name="tiny", fields={})
            return module.init.call_args.kwargs["id"]

        return start

    def test_a_run_goes_on_and_another_one_of_the_same_path_is_another(self, tmp_path, new_id):
        workdir = tmp_path / "run"
        workdir.mkdir()
        first = new_id(workdir)
        assert new_id(workdir) == first
        shutil.rmtree(workdir)
        workdir.mkdir()
        assert new_id(workdir) != first

    def test_a_run_of_older_code_goes_on(self, tmp_path, new_id):
        """Its id followed from its path."""
        (tmp_path / "metrics.jsonl").write_text("")
        assert new_id(tmp_path) == hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]
        assert new_id(tmp_path) == (tmp_path / "wandb_run_id").read_text()


class TestOtherWriters:
    """Writers that a plugin registers."""

    @pytest.fixture
    def written(self, monkeypatch):
        calls = []

        class Recorder:
            def __init__(self, workdir, *, settings, name, fields):
                calls.append(("made", workdir.name, settings.every, name, dict(fields)))

            def resume(self, step, *, evaluated):
                calls.append(("resume", step, evaluated))

            def write(self, step, kind, metrics):
                calls.append(("write", step, kind, dict(metrics)))

            def flush(self):
                calls.append(("flush",))

            def close(self):
                calls.append(("close",))

        monkeypatch.setattr(registry.log_writers, "_entries", dict(registry.log_writers._entries))
        registry.log_writers.register("recorder")(Recorder)
        return calls

    def logger(self, tmp_path, *writers):
        settings = LogConfig(tensorboard=False, every=7, writers=writers)
        return metrics_log.Logger(tmp_path / "run", settings, name="tiny", steps=9, fields={"seed": 1})

    def test_they_get_all_that_metrics_jsonl_gets(self, tmp_path, written):
        (tmp_path / "run").mkdir()
        logger = self.logger(tmp_path, "recorder")
        logger.resume(3, evaluated=False)
        logger.write(4, "train", {"loss": 2.5, "note": "text"})
        logger.write(4, "eval", {"acc1": 0.5})
        logger.flush()
        logger.close()
        assert written == [
            ("made", "run", 7, "tiny", {"seed": 1}),
            ("resume", 3, False),
            ("write", 4, "train", {"loss": 2.5, "note": "text"}),
            ("write", 4, "eval", {"acc1": 0.5}),
            ("flush",),
            ("close",),
        ]
        assert [(line["step"], line["kind"]) for line in logger.file.lines()] == [(4, "train"), (4, "eval")]

    def test_one_that_fails_to_close_leaves_none_open(self, tmp_path, written, monkeypatch):
        (tmp_path / "run").mkdir()

        class Failing:
            def __init__(self, workdir, *, settings, name, fields):
                pass

            def close(self):
                raise OSError("gone")

        registry.log_writers.register("failing")(Failing)
        with pytest.raises(UserError, match=r"^log writer 'failing' of .*, line \d+: OSError: gone$"):
            self.logger(tmp_path, "failing", "recorder").close()
        assert written[-1] == ("close",)

    def test_ours_are_not_written_twice(self):
        settings = LogConfig(writers=("tensorboard", "recorder", "jsonl"))
        assert metrics_log.writer_names(settings) == ("jsonl", "tensorboard", "recorder")
        assert metrics_log.writer_names(LogConfig(tensorboard=False)) == ("jsonl",)

    @pytest.mark.parametrize(
        ("writers", "message"),
        [
            (
                ("recoder",),
                r"log.writers=\('recoder',\) is not known \(did you mean 'recorder'\?\); choose",
            ),
            (("wandb",), "log.writers names wandb, which needs a project; set log.wandb_project"),
            (("",), r"log.writers=\('',\) is not known"),
        ],
    )
    def test_a_mistake_is_named_before_anything_is_computed(self, writers, message, written):
        with pytest.raises(UserError, match=message):
            validate_run.check_config(parse(runs.config(log__writers=writers)))
        assert not written

    def test_a_writer_checks_what_it_needs(self, written):
        @registry.log_writers.register("choosy")
        class Choosy:
            @staticmethod
            def check(settings):
                raise UserError(f"log.every={settings.every}: choosy wants another")

        with pytest.raises(UserError, match="log.every=1: choosy wants another"):
            validate_run.check_config(parse(runs.config(log__writers=("choosy",))))


class TestThroughput:
    @pytest.mark.parametrize(
        ("kind", "peak"),
        [
            ("NVIDIA H100 80GB HBM3", 989e12),
            ("NVIDIA H100 PCIe", 756e12),
            ("NVIDIA H200", 989e12),
            ("NVIDIA A100-SXM4-40GB", 312e12),
            ("NVIDIA L4", 121e12),
            ("NVIDIA L40", 181e12),
            ("NVIDIA L40S", 362e12),
            ("TPU v4", 275e12),
            ("TPU v5 lite", 197e12),
            ("TPU v5p", 459e12),
            ("TPU v6 lite", 918e12),
            ("cpu", None),
            ("NVIDIA GeForce GTX 1080", None),
        ],
    )
    def test_peaks(self, kind, peak):
        assert device_specs.peak_flops(kind) == peak

    def test_meter(self):
        now = iter([0.0, *(0.0, 0.5), *(1.0, 1.1), *(2.0, 2.3), 4.0, 10.0, 30.0, 31.0, 40.0]).__next__
        with mock.patch.object(metrics_log.time, "perf_counter", now):
            meter = metrics_log.Meter(
                "images_per_second", batch_size=32, flops_per_example=1e9, devices=4, peak=1e12
            )  # at 0
            for _ in range(3):  # 0.5, 0.1 and 0.3 s; the last for a step that is on its way
                with meter.waiting():
                    pass
            rates = meter.read(2)  # at 4, and again from 10 on
            assert rates["step_time"] == 2.0 and rates["images_per_second"] == 16.0
            assert rates["data_wait"] == pytest.approx(0.3)
            # Three forward passes in 2 s on 4 devices.
            assert rates["mfu"] == pytest.approx(3 * 1e9 * 32 / 2.0 / 4e12)
            meter.reset(5)  # at 30
            assert meter.read(4) == meter.read(5) == {}  # none has ended
            assert meter.read(6)["step_time"] == 1.0

    def test_unknown_peak(self):
        meter = metrics_log.Meter("images_per_second", 1, 1.0, 1, None)
        assert "mfu" not in meter.read(1)
