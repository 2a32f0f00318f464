"""`mmjax push`: a model with its card, in a folder and on a Hub that only listens."""

import json
import re
from pathlib import Path
from unittest import mock

import pytest

import mmjax
from mmjax.cli import main
from mmjax.data.loading import corruption
from mmjax.errors import UserError
from mmjax.inference import model_card, push
from mmjax.metrics import definitions
from tests.helpers import runs

GOLDEN = runs.ROOT / "tests/golden/interop"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run that was evaluated at its end."""
    folder = tmp_path_factory.mktemp("run")
    data = dict(data__train="shapes", data__eval="shapes/test", eval__every=2, eval__batch_size=64)
    assert runs.train(runs.config(steps=2, checkpoint__every=2, **data), folder) is None
    return folder


def card_of(folder):
    text = (Path(folder) / "README.md").read_text()
    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1]
    return text, {key: json.loads(value) for key, value in (line.split(": ", 1) for line in front.splitlines())}


def test_a_folder_without_network(workdir, tmp_path, capsys):
    assert main.main(["push", str(workdir), str(tmp_path / "my-clip"), "--license=apache-2.0"]) == 0
    assert "README.md" in capsys.readouterr().out
    text, metadata = card_of(tmp_path / "my-clip")
    assert metadata["license"] == "apache-2.0" and metadata["library_name"] == "open_clip"
    (index,) = metadata["model-index"]
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    (measured,) = (line for line in lines if line["kind"] == "eval" and line["step"] == 2)
    names = {metric["name"]: metric["value"] for result in index["results"] for metric in result["metrics"]}
    assert names["image_retrieval_recall@1"] == measured["shapes/image_retrieval_recall@1"]
    assert (
        "share of captions whose image is one of the 1 most similar of all images" in text
        and "| data | shapes |" in text
    )
    assert mmjax.load(tmp_path / "my-clip").can == mmjax.load(workdir).can


def test_nothing_is_left_after_a_failure(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(push, "make_card", mock.Mock(side_effect=UserError("no card")))
    with pytest.raises(UserError, match="no card"):
        push.push(workdir, str(tmp_path / "one"))
    assert not list(tmp_path.iterdir())


def test_evaluations_that_were_stored_are_the_results(workdir, tmp_path):
    metrics = {"acc1": 0.5, "acc5": 0.75}
    record = {"dataset": "digits/test", "model": "m", "pretrained": "p", "task": "zeroshot_classification"}
    record |= {"metrics": metrics, "language": "en"}
    (workdir / "eval").mkdir(exist_ok=True)
    file = workdir / "eval" / "2.json"
    file.write_text(json.dumps([record]))
    assert main.main(["push", str(workdir), str(tmp_path / "one")]) == 0
    file.unlink()
    text, metadata = card_of(tmp_path / "one")
    assert (
        "license" not in metadata
        and "| digits/test | zeroshot classification | acc1 | 50.00% | share of examples whose" in text
    )
    (result,) = metadata["model-index"][0]["results"]
    assert result["task"] == {"type": "zero-shot-image-classification"} and result["dataset"]["name"] == "digits/test"


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("pairs:/home/me/secret/a.tsv@2+wds:gs://mine/b-{0..9}.tar", "pairs:a.tsv@2+wds:b-{0..9}.tar"),
        ("wds:{/home/me/a,/home/other/b}.tar", "wds:..."),
        ("parquet:https://user:token@host/x/y.parquet", "parquet:y.parquet"),
        ("pairs:/home/me/a.csv,images=/home/me/{id}.jpg", "pairs:a.csv"),
        ("json+lower:/x/tokenizer.json", "json+lower:tokenizer.json"),
        ("folder:/data/imagenet/", "folder:imagenet"),
        ("folder:imagenet/val", "folder:imagenet/val"),
        ("karpathy:/x/dataset_coco.json/test", "karpathy:dataset_coco.json/test"),
        ("tfds:coco_captions/train", "tfds:coco_captions/train"),
        ("hf:/home/me/secret/set", "hf:set"),
        ("hf:me/set", "hf:me/set"),
        ("hf-hub:me/clip", "hf-hub:me/clip"),
        ("/home/me/run", "run"),
        ("C:\\Users\\me\\run", "run"),
        ("shapes/test", "shapes/test"),
    ],
)
def test_folders_are_not_in_a_card(name, public):
    assert model_card.public_name(name) == public


class Hub:
    """What huggingface_hub.HfApi is asked for."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def create_repo(self, name, **options):
        self.calls.append((name, options))

    def upload_folder(self, *, repo_id, folder_path):
        if self.error:
            raise self.error
        self.calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
        return "https://hub/me/clip"


def test_the_hub(workdir, monkeypatch, capsys):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert main.main(["push", str(workdir), "hf-hub:me/clip", "--private"]) == 0
    created, uploaded = hub.calls
    assert created == ("me/clip", {"private": True, "exist_ok": True}) and uploaded[0] == "me/clip"
    assert {"README.md", "open_clip_config.json", "open_clip_model.safetensors"} <= set(uploaded[1])
    assert "https://hub/me/clip" in capsys.readouterr().out
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Hub(RuntimeError("401 Unauthorized\nmore")))
    assert main.main(["push", str(workdir), "hf-hub:me/clip"]) == 2
    error = capsys.readouterr().err
    assert "(RuntimeError: 401 Unauthorized); log in" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hf-hub:me/clip/more"], "DST=hf-hub:me/clip/more: give hf-hub:OWNER/NAME"),
        (["folder", "--license=Apache 2"], "--license=Apache 2: give the Hub's name"),
        (["folder", "--to=big_vision"], "--to='big_vision' is not known"),
        (["folder", "--private"], "--private is of repositories"),
        (["gs://bucket/x"], "DST=gs://bucket/x: files for other programs are written to a local disk"),
        ([""], "is empty"),
        (["/proc/x"], "DST=/proc"),
    ],
)
def test_mistakes_are_one_line(workdir, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main.main(["push", str(workdir), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_metrics_of_the_docs_have_a_definition():
    """Those of the tables in docs/evaluation.md."""
    text = (runs.ROOT / "docs/evaluation.md").read_text()
    names = re.findall(r"(?m)^\| ((?:`[^`|]+`(?: \.\.\. |, )?)+)[^|]*\| [^|]+\| [^|]*\|$", text)
    known = {name for line in names for name in re.findall(r"`([^`]+)`", line)} - {"metric"}
    plain = lambda name: re.sub(r"^\.\.\._", "text_retrieval_", name).replace("K", "5").replace("CATEGORY", "swap")
    filled = {name for name in map(plain, known) if re.fullmatch(r"[a-z0-9_@]+", name)} - {
        kind for kinds in corruption.KINDS.values() for kind in kinds
    }
    assert {"acc1", "rouge_l", "rsum", "text_acc", "itm_accuracy"} <= filled
    assert not [name for name in filled if not definitions.definition(name)]
    assert definitions.definition("acc1_without_audio") == "acc1 without audio" and not definitions.definition("gap")
    assert definitions.definition("5x1000_rsum").endswith("mean of 5 folds of 1000")


@pytest.mark.full
def test_the_hubs_own_parser_accepts_the_card(workdir, tmp_path):
    import huggingface_hub

    for source, form in ((workdir, "openclip"), (GOLDEN / "hf-clip", "hf")):
        assert main.main(["push", str(source), str(tmp_path / form), f"--to={form}", "--license=mit"]) == 0
        card = huggingface_hub.ModelCard((tmp_path / form / "README.md").read_text(), ignore_metadata_errors=False)
        assert card.data.license == "mit"
        again = huggingface_hub.ModelCard(str(card), ignore_metadata_errors=False)
        assert again.data.to_dict() == card.data.to_dict()
    assert len(huggingface_hub.ModelCard.load(tmp_path / "openclip" / "README.md").data.eval_results) > 3
