"""The training loop: what it logs, evaluates and saves, and when it stops."""

import json
import math
import shutil
from unittest import mock

import jax
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from mmjax.config import parse
from mmjax.errors import UserError
from mmjax.evaluation import from_config
from mmjax.report import page
from mmjax.training import checkpoint, hooks, init_from, loop, step_agreement
from mmjax.training.step_agreement import StepAgreement
from tests.helpers import runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {"data.eval": f"folder:{runs.write_classes(folder / 'pets')}+pairs:{runs.write_pairs(folder / 'pairs')}"}


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """Eight steps with everything on that does not change the numbers."""
    workdir = tmp_path_factory.mktemp("plain")
    config = runs.config(**data, log__tensorboard=True, log__profile=(2, 3), checkpoint__keep=9)
    assert runs.train(config, workdir, write_report=True) is None
    return workdir


class TestWhatIsLogged:
    def test_training(self, plain):
        lines = runs.lines(plain, "train")
        assert [line["step"] for line in lines] == list(range(1, 9))
        for line in lines:
            assert set(line) >= {"loss", "accuracy", "logit_scale", "grad_norm", "learning_rate"}
            assert "mfu" not in line  # the peak of this processor is not known
            assert 0 < line["loss"] < 10 and 0 <= line["accuracy"] <= 1 and line["grad_norm"] > 0
        # Two steps may be on their way; how long they take is told by those that have ended since the last pause.
        message = [line for line in lines if "step_time" in line]
        assert [line["step"] for line in message] == [8]
        for line in message:
            assert line["step_time"] > 0 and 0 <= line["data_wait"] <= line["step_time"]
            assert line["images_per_second"] == pytest.approx(16 / line["step_time"])
        assert [line["learning_rate"] for line in lines[:3]] == pytest.approx([5e-4, 1e-3, 1e-3])
        assert lines[0]["logit_scale"] == pytest.approx(1 / 0.07) != lines[-1]["logit_scale"]

    def test_evaluation(self, plain):
        lines = runs.lines(plain, "eval")
        assert [line["step"] for line in lines] == [4, 8]
        for line in lines:
            assert {"pets/acc1", "pets/mean_per_class_recall", "pets/loss"} <= set(line)
            recalls = {f"captions/{way}_retrieval_recall@{k}" for way in ("image", "text") for k in (1, 5, 10)}
            assert recalls | {"captions/loss"} <= set(line)
            assert line["pets/loss"] > 0 and line["captions/loss"] > 0  # held-out loss
            assert all(0 <= value <= 1 for name, value in line.items() if "recall" in name or "acc" in name)

    def test_summary(self, plain):
        (summary,) = runs.lines(plain, "summary")
        last = runs.lines(plain, "eval")[-1]
        assert summary["step"] == 8 and summary["examples_seen"] == 8 * 16 and summary["images_per_second"] > 0
        assert {name: summary[name] for name in last if "/" in name} == {n: v for n, v in last.items() if "/" in n}

    def test_config_and_report(self, plain):
        assert json.loads((plain / "config.json").read_text())["optimizer"]["learning_rate"] == 1e-3
        assert "<html" in (plain / "report.html").read_text()

    def test_tensorboard(self, plain):
        values = {}
        for event in _events(plain / "tensorboard"):
            values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        for line in runs.lines(plain):
            for name in set(line) - {"step", "kind"}:
                key = (f"{line['kind']}/{name.replace('@', '_')}", line["step"])
                assert values[key] == pytest.approx(line[name], rel=1e-5), key

    def test_a_trace_of_the_chosen_steps(self, plain):
        traces = list((plain / "profile").rglob("*.xplane.pb"))
        assert len(traces) == 1 and b"train_step" in traces[0].read_bytes()

    def test_terminal(self, data, tmp_path, capsys):
        """Plain lines where no one looks at a terminal."""
        runs.train(runs.config(**data, log__every=4), tmp_path)
        out = capsys.readouterr().out
        assert "tiny: tiny, 43,297 parameters; mesh data 1 x fsdp 1 x tensor 1 of cpu; 8 steps of 16 pairs" in out
        steps = [line for line in out.splitlines() if line.startswith("step ") and "loss" in line and "/8 " in line]
        assert [line.split("  ")[0] for line in steps] == ["step 1/8", "step 4/8", "step 8/8"]
        assert "img/s" in steps[-1] and "left" in steps[-1] and "\r" not in out
        assert "step 4  pets: acc1" in out and "step 8  captions: image_retrieval_recall@1" in out
        assert [line["step"] for line in runs.lines(tmp_path, "train")] == [1, 4, 8]


def _events(folder):
    """Reads TensorBoard's files: length, its checksum, an event, its checksum."""
    for path in sorted(folder.iterdir()):
        content, position = path.read_bytes(), 0
        while position < len(content):
            length = int.from_bytes(content[position : position + 8], "little")
            yield event_pb2.Event.FromString(content[position + 12 : position + 12 + length])
            position += 16 + length


class TestTensorboardGoesOn:
    def test_what_is_logged_again_is_marked(self, data, tmp_path):
        config = runs.config(**data, log__tensorboard=True)
        with mock.patch.object(StepAgreement, "post", _raise_at(6)), pytest.raises(ZeroDivisionError):
            runs.train(config, tmp_path)
        runs.train(config, tmp_path)
        restarts = [event.step for event in _events(tmp_path / "tensorboard") if event.HasField("session_log")]
        assert restarts == [4]  # TensorBoard drops what it has from there on


def _raise_at(step):
    def post(self, replaced, number):
        if number == step:
            raise ZeroDivisionError

    return post


def planted(step_number):
    """A loop whose scale is not a number before step `at`, so that the loss of that step is not finite."""
    run_steps = loop.run_steps

    def patched(run, stop):
        train_step = run.step

        def step(state, batch):
            if int(state.step) + 1 == step_number:
                state = state.replace(params=state.params | {"logit_scale": state.params["logit_scale"] * math.nan})
            return train_step(state, batch)

        run.step = step
        return run_steps(run, stop)

    return mock.patch.object(loop, "run_steps", patched)


class TestNotFinite:
    """The run stops, names the step, and saves nothing over the last good checkpoint."""

    @pytest.mark.parametrize(
        ("step", "log_every"),
        [
            pytest.param(5, 1, id="noticed by a log", marks=pytest.mark.full),
            pytest.param(5, 100, id="noticed by a save"),
            pytest.param(7, 100, id="noticed at the end", marks=pytest.mark.full),
        ],
    )
    def test_stops(self, data, plain, tmp_path, capsys, step, log_every):
        kept = 3 if step == 5 else 6
        argv = [f"--workdir={tmp_path}", f"--config.data.eval={data['data.eval']}", "--config.checkpoint.keep=1"]
        with planted(step):
            assert runs.train_cli(*argv, f"--config.log.every={log_every}") == 1
        message = capsys.readouterr().err
        assert message.startswith(f"stopped: loss or gradient norm is not finite at step {step}; ")
        assert f"the checkpoint of step {kept} is intact" in message and len(message.splitlines()) == 1
        assert runs.steps(tmp_path) == [kept]
        assert all(line["step"] < step for line in runs.lines(tmp_path))  # which also reads them as JSON
        runs.assert_same_arrays(runs.arrays(tmp_path, kept), runs.arrays(plain, kept))

        # The fault removed, it goes on from there.
        assert runs.train_cli(*argv) == 0
        runs.assert_same_arrays(runs.arrays(tmp_path, 8), runs.arrays(plain, 8))

    def test_before_the_first_checkpoint(self, tmp_path, capsys):
        with planted(2):
            assert runs.train_cli(f"--workdir={tmp_path}") == 1
        assert "at step 2; no checkpoint had been written yet" in capsys.readouterr().err
        assert runs.steps(tmp_path) == []


class TestBadExamples:
    @pytest.fixture
    def broken(self, tmp_path):
        """Nine images, of which one is missing and one is no image."""
        table = runs.write_pairs(tmp_path / "broken")
        (table.parent / "4.jpg").unlink()
        (table.parent / "7.jpg").write_bytes(b"not a JPEG")
        return f"pairs:{table}"

    def test_are_replaced_counted_and_told(self, broken, tmp_path, capsys):
        config = runs.config(data__train=broken, data__max_bad_fraction=0.5)
        runs.train(config, tmp_path / "whole")
        last = runs.lines(tmp_path / "whole", "train")[-1]
        # Every ninth example is missing, every ninth is none, but for the epoch that is not over.
        assert abs(last["bad_missing"] - 8 * 16 / 9) < 1 and abs(last["bad_not_image"] - 8 * 16 / 9) < 1
        bad = last["bad_missing"] + last["bad_not_image"]
        assert f"note: {bad} of 128 examples could not be read (" in capsys.readouterr().out
        # The counts go on where they were.
        with mock.patch.object(hooks.Save, "run", _after_save(3)), pytest.raises(ZeroDivisionError):
            runs.train(config, tmp_path / "again")
        runs.train(config, tmp_path / "again")
        assert runs.numbers(tmp_path / "again") == runs.numbers(tmp_path / "whole")

    def test_too_many_stop_the_run(self, broken, tmp_path, capsys):
        argv = [f"--workdir={tmp_path / 'run'}", f"--config.data.train={broken}"]
        with mock.patch.object(step_agreement, "_MIN_SEEN", 60):
            assert runs.train_cli(*argv, "--config.data.max_bad_fraction=0.2") == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith(f"error: data.train='{broken}': ") and "of 64 examples could not be read" in message
        assert "missing: " in message and "not_image: " in message and "data.max_bad_fraction=0.2" in message
        assert runs.steps(tmp_path / "run") == [3]
        with mock.patch.object(step_agreement, "_MIN_SEEN", 60):  # also what had been read before
            assert runs.train_cli(*argv, "--config.data.max_bad_fraction=0.2") == 2

    def test_one_is_too_many_where_none_is_allowed(self, broken, tmp_path, capsys):
        flags = [f"--config.data.train={broken}", "--config.data.max_bad_fraction=0"]
        assert runs.train_cli(f"--workdir={tmp_path / 'run'}", *flags) == 2
        assert "of 16 examples could not be read" in capsys.readouterr().err

    def test_nothing_can_be_read(self, tmp_path, capsys):
        table = runs.write_pairs(tmp_path / "pairs", count=3)
        for path in table.parent.glob("*.jpg"):
            path.write_bytes(b"not a JPEG")
        assert runs.train_cli(f"--workdir={tmp_path / 'run'}", f"--config.data.train=pairs:{table}") == 2
        first, message = capsys.readouterr().err.splitlines()
        assert "cannot be used (not_image: " in first and "bad_not_image" in first
        assert message.startswith("error: data.train: ") and "in a row could not be used" in message


def _after_save(step):
    save = hooks.Save.run

    def patched(self, context):
        save(self, context)
        if context.step == step:
            raise ZeroDivisionError

    return patched


class TestBest:
    def test_keeps_the_best(self, data, tmp_path):
        config = runs.config(**data, checkpoint__every=2, eval__every=2, checkpoint__keep=1)
        config.checkpoint.keep_best, config.checkpoint.best_metric = 1, "pets/acc1"
        accuracy = iter([0.1, 0.9, 0.2, 0.3])
        with mock.patch.object(hooks, "flat_metrics", lambda results: {"pets/acc1": next(accuracy)}):
            runs.train(config, tmp_path)
        assert runs.steps(tmp_path) == [4, 8]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (dict(best_metric="pet/acc1"), "checkpoint.best_metric='pet/acc1' wants DATASET/METRIC.*: pets, captions"),
            (dict(best_metric="pets/acc1", every=3), "make checkpoint.every=3 a multiple of eval.every=4"),
            (
                dict(best_metric="pets/acc1", eval__every=0),
                "needs evaluations, but eval.every=0 is none before the end; set it to 3",
            ),
        ],
    )
    def test_mistakes(self, data, tmp_path, changes, message):
        settings = {name if "__" in name else f"checkpoint.{name}": value for name, value in changes.items()}
        with pytest.raises(UserError, match=message):
            runs.train(runs.config(**data, **settings, checkpoint__keep_best=1), tmp_path / "run")
        assert not (tmp_path / "run").exists()


DECAY = 0.75
LOCKED = ("image/.*", "image_head/.*")


@pytest.fixture(scope="module")
def evaluated():
    """The parameters that were evaluated."""
    return []


@pytest.fixture(scope="module")
def lit(plain, data, evaluated, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("lit")
    config = runs.config(**data, ema_decay=DECAY, optimizer__freeze=LOCKED, seed=1, checkpoint__every=1)
    config.init_from, config.init_paths, config.checkpoint.keep, config.steps = str(plain), LOCKED, 9, 4
    run = from_config.Evaluator.run

    def remember(self, params, **kwargs):
        evaluated.append(jax.tree.map(np.array, params))
        return run(self, params, **kwargs)

    with mock.patch.object(from_config.Evaluator, "run", remember):
        assert runs.train(config, workdir) is None
    return workdir


class TestLockedTowerAndAverage:
    """LiT: an image tower taken from another run and locked, with a moving average of the parameters."""

    def test_locked_parameters_stay_what_they_were_there(self, lit, plain):
        theirs, here = runs.arrays(plain, 8), runs.arrays(lit, 4)
        locked = [name for name in here if name.startswith(("['params']['image", "['ema_params']['image"))]
        assert len(locked) > 20
        for name in locked:
            np.testing.assert_array_equal(here[name], theirs[name.replace("ema_params", "params")], err_msg=name)
        text = [name for name in here if name.startswith("['params']['text")]
        assert all(not np.array_equal(here[name], theirs[name]) for name in text if "kernel" in name)

    def test_the_optimizer_knows_the_others_only(self, lit):
        moments = [name for name in runs.arrays(lit, 4) if name.startswith("['opt_state']")]
        assert any("'text'" in name for name in moments) and not any("'image" in name for name in moments)

    def test_average(self, lit):
        average = None
        for step in range(1, 5):
            state = runs.arrays(lit, step)
            params = {name: x for name, x in state.items() if name.startswith("['params']")}
            if average is not None:
                average = {name: a + (1 - DECAY) * (params[name] - a) for name, a in average.items()}
                for name, a in average.items():
                    np.testing.assert_allclose(state[name.replace("params", "ema_params")], a, rtol=2e-6, atol=1e-7)
            average = {name: state[name.replace("params", "ema_params")] for name in params}

    def test_the_average_is_what_is_evaluated(self, lit, evaluated):
        state = runs.arrays(lit, 4)
        assert len(evaluated) == 1
        for path, x in jax.tree_util.tree_leaves_with_path(evaluated[0]):
            np.testing.assert_array_equal(x, state["['ema_params']" + jax.tree_util.keystr(path)])

    def test_eval_gives_the_same_numbers(self, lit, tmp_path):
        output = tmp_path / "result.json"
        with mock.patch.object(page, "write_report"):
            assert runs.eval_cli(f"--workdir={lit}", f"--output={output}") == 0
        (line,) = runs.lines(lit, "eval")
        result = {
            f"{r['dataset']}/{name}": x for r in json.loads(output.read_text()) for name, x in r["metrics"].items()
        }
        assert result == {name: value for name, value in line.items() if "/" in name}

    def test_mistakes_in_what_is_taken(self, plain, tmp_path):
        params = {"image": {"patch_embed": {"kernel": jax.ShapeDtypeStruct((8, 8, 3, 48), np.float32)}}}

        def assert_refused(match, **changes):
            with pytest.raises(UserError, match=match):
                init_from.read(params, parse(runs.config(**changes)))

        assert_refused("init_from='/nowhere': there is no", init_from="/nowhere")
        assert_refused("has shape .* there and has shape .* here", init_from=str(plain))
        assert_refused("init_paths='audio/.*' matches no parameter", init_from=str(plain), init_paths=("audio/.*",))
        (tmp_path / "checkpoints").mkdir()
        assert_refused("no complete checkpoint", init_from=str(tmp_path))


class TestWorkdirs:
    def test_of_another_model(self, plain, tmp_path):
        """The differing fields are listed, and nothing is touched."""
        workdir = tmp_path / "run"
        shutil.copytree(plain, workdir)
        before = runs.snapshot(workdir)

        def refused(match, **changes):
            with pytest.raises(UserError, match=match):
                runs.train(runs.config(**changes), workdir)
            assert runs.snapshot(workdir) == before

        refused(
            r"holds another model \(model.image.width: 32 -> 64; model.text.depth: 1 -> 3\)",
            model__image__width=64,
            model__text__depth=3,
        )
        refused("optimizer.name: adamw -> lion", optimizer__name="lion")
        refused("ema_decay: 0.0 -> 0.9", ema_decay=0.9)
        refused(r"optimizer.freeze: \(\) -> ", optimizer__freeze=("image/.*",))
        refused("batch_size=32: the run in .* has 16", batch_size=32)
        refused("steps=4: the workdir is already at step 8", steps=4)

    @pytest.mark.full
    def test_how_a_model_is_run_may_change(self, plain, data, tmp_path):
        """So may rates, clipping and multipliers; the stored state fits."""
        workdir = tmp_path / "run"
        shutil.copytree(plain, workdir)
        config = runs.config(**data, steps=9, optimizer__grad_clip=1.0, optimizer__multipliers=(("text/.*", 0.5),))
        config.model.image.scan = True
        config.model.text.remat = "full"
        config.optimizer.weight_decay = 0.1
        assert runs.train(config, workdir) is None
        assert runs.lines(workdir, "train")[-1]["step"] == 9


class TestProfiler:
    """The window of steps, whatever a run does in between."""

    @pytest.mark.parametrize(
        ("window", "begin", "end", "traced"),
        [
            ((2, 3), 1, 6, [2, 3]),
            ((1, 1), 1, 6, [1]),
            ((2, 3), 3, 6, [3]),  # resumed within it
            ((2, 3), 4, 6, []),  # resumed after it
            ((5, 9), 1, 6, [5, 6]),  # the run ends within it
            ((), 1, 6, []),
        ],
    )
    def test_window(self, tmp_path, window, begin, end, traced):
        result, on = [], []
        state = mock.Mock(step=np.zeros(()))
        with (
            mock.patch.object(jax.profiler, "start_trace", lambda folder: on.append(folder)),
            mock.patch.object(jax.profiler, "stop_trace", lambda: on.clear()),
        ):
            trace = hooks.Profiler(tmp_path, window)
            for step in range(begin, end + 1):
                trace.before(step, state)
                result += [step] if on else []
            trace.close()
        assert result == traced and not on


def test_checkpoints_are_read_by_others_while_it_runs(data, tmp_path):
    """At every save the lines up to it are there, and the checkpoint before it is whole."""
    seen = []

    def save(self, step, state, meta, metrics=None):
        reader = checkpoint.Checkpoints(tmp_path / "checkpoints", read_only=True)
        seen.append(
            (
                step,
                len(runs.lines(tmp_path, "train")),
                [reader.read_meta(step_number)["position"] for step_number in reader.all_steps()],
            )
        )
        return original(self, step, state, meta, metrics)

    original = checkpoint.Checkpoints.save
    with mock.patch.object(checkpoint.Checkpoints, "save", save):
        runs.train(runs.config(**data), tmp_path)
    assert [(step, count) for step, count, _ in seen] == [(3, 3), (6, 6), (8, 8)]
    assert all(position % (3 * 16) == 0 for _, _, positions in seen for position in positions)


def test_data_that_cannot_be_evaluated_on_costs_no_training(tmp_path, capsys):
    """The step is saved, and once the data is whole its evaluation is made up for."""
    folder = runs.write_classes(tmp_path / "pets")
    image = (folder / "dog" / "2.jpg").read_bytes()
    (folder / "dog" / "2.jpg").write_bytes(b"not an image")
    argv = [f"--workdir={tmp_path / 'run'}", f"--config.data.eval=folder:{folder}"]
    assert runs.train_cli(*argv) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: data.eval: example 6 of 'pets' cannot be read") and len(message.splitlines()) == 1
    assert runs.steps(tmp_path / "run") == [3, 4]
    (folder / "dog" / "2.jpg").write_bytes(image)
    assert runs.train_cli(*argv) == 0
    assert [step for kind, step in runs.numbers(tmp_path / "run") if kind == "eval"] == [4, 8]
