"""examples/, at toy size; examples/plugin is in test_example_plugin.py."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax.config import load_recipe
from mmjax.errors import UserError
from tests.helpers import runs

EXAMPLES = Path(__file__).parent.parent / "examples"
NOTEBOOK = EXAMPLES / "clip.ipynb"


def run_script(monkeypatch, name, *words):
    """Runs a script of the examples in this process, as `python examples/NAME words` would."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def code_cells(notebook):
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_stored_as_it_ran():
    text = NOTEBOOK.read_text()
    assert len(text) < 500_000
    assert not re.search(r"(/home|/root|/tmp|/usr|/work|/opt|/var|\.venv|[A-Z]:\\\\)\b", text)
    cells = code_cells(NOTEBOOK)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert "stderr" not in {output.get("name") for output in outputs}
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6


def test_weights_to_start_from_must_be_named():
    with pytest.raises(UserError, match="weights is missing; name what to start from"):
        load_recipe(f"{EXAMPLES}/finetune.py:steps=10")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as open_clip writes it for the Hub: a small model with fresh weights, and its config."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    tower = dict(width=32, layers=1)
    settings = dict(
        embed_dim=32,
        vision_cfg=dict(image_size=32, patch_size=8, head_width=16, **tower),
        text_cfg=dict(context_length=77, vocab_size=49408, heads=2, **tower),
    )
    folder = tmp_path_factory.mktemp("open_clip")
    prepared = dict(mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", resize_mode="shortest")
    config = dict(model_cfg=settings, preprocess_cfg=prepared)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**settings).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.full
def test_fine_tuning_starts_from_weights_of_open_clip(weights, tmp_path):
    recipe = f"--config={EXAMPLES}/finetune.py:weights={weights},steps=2,batch=16,lr=1e-9"
    flags = ("--config.data.train=digits", "--config.data.eval=digits/test", "--config.data.workers=0")
    flags += ("--config.precision=float32", "--config.log.tensorboard=false", f"--workdir={tmp_path}/tuned")
    assert runs.train_cli(recipe, *flags) == 0
    before, after = mmjax.load(weights), mmjax.load(tmp_path / "tuned")
    assert after.config.data.image_rule == "open_clip" and after.config.data.mean_std == "siglip"
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    np.testing.assert_allclose(after.encode_image(images), before.encode_image(images), atol=1e-5)
    np.testing.assert_allclose(after.encode_text(["a", "b c"]), before.encode_text(["a", "b c"]), atol=1e-5)
    assert 0 <= runs.lines(tmp_path / "tuned", "eval")[-1]["digits/acc1"] <= 1
    assert runs.lines(tmp_path / "tuned", "train")[-1]["step"] == 2


@pytest.mark.full
def test_open_clip_and_mmjax_evaluate_alike(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_script(monkeypatch, "evaluate_open_clip.py", weights)
    output = capsys.readouterr().out
    assert all(float(x) < 1e-5 for x in re.findall(r"difference of an embedding is (\S+)", output))
    theirs, ours = re.search(r"top-1: open_clip (\S+)%, mmjax (\S+)%", output).groups()
    (record,) = json.loads((tmp_path / "open_clip_digits.json").read_text())
    assert theirs == ours == f"{100 * record['metrics']['acc1']:.2f}"


@pytest.mark.full
@pytest.mark.parametrize("folder", [False, True])
def test_images_are_found_by_words_and_drawn(weights, tmp_path, monkeypatch, capsys, folder):
    flags, queries = (), ("a red circle", "a green square")
    if folder:
        runs.write_classes(tmp_path / "photos", count=5)
        flags = (f"--images={tmp_path / 'photos'}",)
    run_script(monkeypatch, "search_and_plot.py", weights, tmp_path / "plot.png", *queries, *flags)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in queries] == list(queries)
    scores = [float(line.split()[0]) for line in lines[1:7]]
    assert scores == sorted(scores, reverse=True)
    assert min(Image.open(tmp_path / "plot.png").size) > 300


@pytest.mark.full
def test_the_notebook_runs(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    for name, value in runs.environment().items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    parameters.source = "steps = 2"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "step 2/2" in shown and "text to image: R@1" in shown and "of 355" in shown
