"""Every mistake is one clear line and exit status 2, and loses nothing."""

import os

import pytest
from PIL import Image

from mmjax.cli import main, train
from tests.helpers import runs


def one_line(capsys, status=2):
    """The single line on standard error; nothing else may stand there."""
    text = capsys.readouterr().err
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.optimizr.b1=0.5"], "did you mean 'optimizer'"),
        (["--config.steps=many"], "--config.steps=many: wants an integer"),
        (["--config.data.flip=yes"], "wants true or false"),
        (["--config.optimizer.learning_rate=fast"], "wants a number"),
        (["--config.steps"], "--config.steps has no value"),
        (["--cofnig.steps=3"], "did you mean"),
        (["--config.steps=0"], "steps=0 must be at least 1"),
        (
            ["--config.batch_size=30"],
            "batch_size=30 does not divide over mesh.data x mesh.fsdp = 8 devices; choose 24 or 32",
        ),
        (["--config.batch_size=16", "--config.microbatch=4"], "microbatch = 4; choose 32"),
        (["--config.eval.batch_size=30"], "eval.batch_size=30 does not divide"),
        (["--config.mesh.data=3"], "mesh.data=3"),
        (["--config.mesh.tensor=4"], "mesh.tensor=4 does not divide model.image.heads=2"),
        (["--config.data.train=pairs:nowhere.tsv"], "nowhere.tsv"),
        (["--config.data.train=folder:nowhere"], "nowhere"),
        (["--config.data.train=shaps"], "did you mean 'shapes'"),
        (["--config.data.train="], "data.train is empty"),
        (["--config.data.eval=digits/tset"], "did you mean 'test'"),
        (["--config.data.context_length=99"], "data.context_length=99 is longer than the model's"),
        (["--config.data.tokenizer=clip"], "data.tokenizer='clip' has 49408 ids, more than model.text.vocab_size=259"),
        (["--config.data.tokenizer=bites"], "did you mean 'bytes'"),
        (["--config.model.text.eos_id=7"], "model.text.eos_id=7; set that to 258"),
        (["--config.optimizer.name=adam"], "did you mean 'adamw'"),
        (["--config.schedule.name=cosin"], "did you mean 'cosine'"),
        (["--config.data.max_bad_fraction=-1"], "data.max_bad_fraction=-1.0 must not be negative"),
        (["--config.schedule.warmup=999"], "schedule.warmup=999"),
        (["--config.model.image.activation=gelo"], "did you mean 'gelu'"),
        (["--config.model.image.pool=clss"], "did you mean 'cls'"),
        (["--config.model.image.heads=3"], "model.image.heads=3 does not divide model.image.width=32"),
        (["--config.model.image.image_size=17"], "not a multiple of model.image.patch_size"),
        (["--config.objectives.itc=0"], "at least one weight must be positive"),
        (["--config.objectives.sigmoid=1"], "model.logit_bias_init"),
        (["--config.optimizer.freeze=imagee/.*"], "matches no parameter path"),
        (["--config.optimizer.freeze=.*"], "freezes every parameter"),
        (["--config.mesh.rules=(('imagee/.*', ()),)"], "matches no parameter path"),
        (["--config.checkpoint.keep=0"], "checkpoint.keep=0"),
        (["--config.precision=float16"], "precision='float16' is not known"),
        (["--config.init_from=nowhere"], "init_from='nowhere'"),
        (["--config=quikstart"], "did you mean 'quickstart'"),
        (["--config=no/such/recipe.py"], "no/such/recipe.py"),
    ],
)
def test_a_mistake_is_one_line(flags, message, tmp_path, capsys):
    status = runs.train_cli(f"--workdir={tmp_path / 'run'}", *flags, devices=8)
    line = one_line(capsys)
    assert status == 2 and message in line, line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_missing_flags(capsys):
    assert train.main(["--workdir=x"]) == 2
    assert "--config" in one_line(capsys)
    assert train.main(["--workdir=x", "--confg=quickstart"]) == 2
    assert "'--confg' is not known (did you mean '--config'?)" in one_line(capsys)
    assert main.main(["trian"]) == 2
    assert "did you mean 'train'" in one_line(capsys)


def test_flags_of_0_1_are_read_by_their_names_of_today(capsys):
    for flag in ("--again", "--overwrite"):
        assert main.main(["eval", "--workdir=x", flag]) == 2
        assert "--overwrite needs --config=SUITE" in one_line(capsys)
    assert main.main(["convert", "a", "b", "--to=hf", "--set", "heads"]) == 2
    assert "--model-config 'heads' is not of the form" in one_line(capsys)
    assert main.main(["eval", "--agan"]) == 2
    assert "did you mean" not in one_line(capsys)  # what is no longer written is not proposed


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.tsv", "filepath\ttitle\n", "empty.tsv"),
        ("columns.tsv", "a\tb\nx.jpg\ta dog\n", "columns.tsv"),
        ("gone.tsv", "filepath\ttitle\nx.jpg\ta dog\n", "x.jpg"),
    ],
)
def test_a_bad_table(name, text, message, tmp_path, capsys):
    (tmp_path / name).write_text(text)
    flags = [f"--config.data.train=pairs:{tmp_path / name}", f"--workdir={tmp_path / 'run'}"]
    assert runs.train_cli(*flags) == 2
    assert message in one_line(capsys)


def test_an_empty_folder(tmp_path, capsys):
    (tmp_path / "pets").mkdir()
    assert runs.train_cli(f"--config.data.train=folder:{tmp_path / 'pets'}", f"--workdir={tmp_path / 'run'}") == 2
    assert "pets" in one_line(capsys)


def test_a_recipe_that_fails(tmp_path, capsys):
    for text, message in [
        ("def get_config(:\n", "SyntaxError"),
        ("def get_config(arg):\n    return 1 / 0\n", "ZeroDivisionError"),
    ]:
        (tmp_path / "mine.py").write_text(text)
        assert runs.train_cli(f"--config={tmp_path / 'mine.py'}", f"--workdir={tmp_path / 'run'}") == 2
        assert message in one_line(capsys)


def test_a_workdir_that_is_a_file_or_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert runs.train_cli(f"--workdir={tmp_path / 'file'}") == 2
    assert "file" in one_line(capsys)
    if os.geteuid() != 0:  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        assert runs.train_cli(f"--workdir={tmp_path / 'locked' / 'run'}") == 2
        assert "locked" in one_line(capsys)
    assert runs.train_cli("--workdir=nosuch://bucket/run") == 2
    assert "nosuch" in one_line(capsys)


@pytest.mark.parametrize("command", [runs.train_cli, runs.eval_cli])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("checkpoints", "is a file, and checkpoints lie in a folder"),
        ("checkpoints/3/meta/metadata", "is no whole checkpoint: meta/metadata cannot be read"),
    ],
)
def test_what_is_not_a_checkpoint_is_told_and_left(what, message, command, tmp_path, capsys):
    (tmp_path / what).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / what).write_text("{")
    assert command(f"--workdir={tmp_path}") == 2
    assert message in one_line(capsys)
    assert (tmp_path / what).read_text() == "{" and not (tmp_path / "config.json").exists()


def test_a_config_that_is_not_one(tmp_path, capsys):
    (tmp_path / "config.json").mkdir()
    assert runs.train_cli(f"--workdir={tmp_path}") == 2
    assert "config.json is not a config" in one_line(capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    assert runs.train(runs.config(steps=3, data__eval="digits/test"), workdir) is None
    return workdir


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.model.image.width=64"], "holds another model (model.image.width: 32 -> 64)"),
        (["--config.optimizer.name=lion"], "optimizer.name: adamw -> lion"),
        (["--config.ema_decay=0.9"], "ema_decay: 0.0 -> 0.9"),
        (["--config.batch_size=32"], "batch_size=32"),
        (["--config.steps=2"], "steps=2"),
        (["--config.nonsense=1"], "no field 'nonsense'"),
    ],
)
def test_a_workdir_of_another_run_is_left_as_it_is(flags, message, trained, capsys):
    before = runs.snapshot(trained)
    flags = ["--config.steps=3", "--config.data.eval=digits/test", *flags]
    assert runs.train_cli(f"--workdir={trained}", *flags) == 2
    assert message in one_line(capsys)
    assert runs.snapshot(trained) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--step=7"], "--step=7: there is no such checkpoint; there are 3"),
        (["--step=x"], "--step"),
        (["--config.model.image.width=64"], "belongs to the trained model"),
        (["--config.data.evl=digits"], "did you mean 'eval'"),
        (["--config.data.eval="], "data.eval is empty"),
        (["--config.data.eval=folder:nowhere"], "nowhere"),
    ],
)
def test_evaluation_mistakes(flags, message, trained, capsys):
    before = runs.snapshot(trained)
    assert runs.eval_cli(f"--workdir={trained}", *flags) == 2
    assert message in one_line(capsys)
    assert runs.snapshot(trained) == before


def test_evaluating_what_is_not_a_run(tmp_path, capsys):
    assert runs.eval_cli(f"--workdir={tmp_path}") == 2
    assert "give the --workdir of a training run" in one_line(capsys)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "3").write_text("a file is no checkpoint")
    assert runs.eval_cli(f"--workdir={tmp_path}") == 2
    assert "no complete checkpoint" in one_line(capsys)


def test_a_broken_evaluation_image_is_named(trained, tmp_path, capsys):
    folder = runs.write_classes(tmp_path / "pets")
    (folder / "cat" / "1.jpg").write_bytes(b"not an image")
    assert (
        runs.eval_cli(f"--workdir={trained}", f"--config.data.eval=folder:{folder}", f"--output={tmp_path}/x.json") == 2
    )
    assert "example 1 of 'pets' cannot be read" in one_line(capsys)
    Image.new("RGB", (8, 8)).save(folder / "cat" / "1.jpg")
    assert (
        runs.eval_cli(f"--workdir={trained}", f"--config.data.eval=folder:{folder}", f"--output={tmp_path}/x.json") == 0
    )
