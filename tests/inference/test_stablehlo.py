"""`mmjax export`: towers that another process runs without mmjax, with the same numbers."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import mmjax
from mmjax.cli import main
from mmjax.inference import stablehlo
from tests.helpers import model_kinds, runs

ARGUMENTS = ["export", "--platforms=cpu,cuda"]
WITHOUT = """
import sys

sys.modules["mmjax"] = None  # an import of it fails
import jax
import numpy as np
from safetensors.numpy import load_file

with np.load("inputs.npz") as file:
    inputs = dict(file)
results = {}
for name, count in (("image", 1), ("text", 2)):
    tower = jax.export.deserialize(bytearray(open(f"export/{name}.stablehlo", "rb").read()))
    arrays = [inputs[f"{name}{number}"] for number in range(count)]
    results[name] = tower.call(load_file(f"export/{name}.safetensors"), *arrays)
np.savez("outputs.npz", **results)
"""


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert runs.train(runs.config(steps=2, checkpoint__every=2), folder) is None
    return folder


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """The folder that the files lie in, and what was printed; in a process without the tests' checks of types.

    They take a size that is not known for no integer.
    """
    folder = tmp_path_factory.mktemp("exported")
    code = f"import sys; from mmjax.cli import main; sys.exit(main.main({[*ARGUMENTS, str(workdir), 'export']!r}))"
    done = runs.python("-c", code, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_towers_run_without_mmjax(workdir, exported):
    folder, printed = exported
    content = json.loads((folder / "export" / stablehlo.DESCRIPTION).read_text())
    model = mmjax.load(workdir)
    size, length = model.image_spec.size, model.tokenizer.context_length
    assert content["towers"]["image"]["inputs"] == [f"uint8 [batch, {size}, {size}, 3]"]
    assert content["towers"]["text"]["inputs"] == [f"int32 [batch, {length}]", f"bool [batch, {length}]"]
    assert content["platforms"] == ["cpu", "cuda"] and content["preprocessing"]["image"]["size"] == size
    assert content["logit_scale"] == pytest.approx(model.logit_scale)
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    texts = ["a red circle", "two", "it is blue", "", "a"]
    ids, mask = model.tokenizer(texts)
    np.savez(folder / "inputs.npz", image0=images, text0=ids, text1=mask)
    done = runs.python("-c", WITHOUT, cwd=folder)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "outputs.npz") as outputs:
        np.testing.assert_allclose(outputs["image"], model.encode_image(images), atol=1e-6)
        np.testing.assert_allclose(outputs["text"], model.encode_text(texts), atol=1e-6)
    files = {path.name for path in (folder / "export").iterdir()}
    assert {"README.md", "image.stablehlo", "text.safetensors", "tokenizer.json"} <= files
    assert all(name in printed for name in files)


def test_parameters_of_a_tower_lie_beside_it(exported):
    folder, _ = exported
    names = {name: set(load_file(folder / "export" / f"{name}.safetensors")) for name in ("image", "text")}
    assert names["image"] and names["text"] and not names["image"] & names["text"]
    tower = jax.export.deserialize(bytearray((folder / "export" / "image.stablehlo").read_bytes()))
    assert len(tower.in_avals) == len(names["image"]) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--platforms=cpu,gpu"], "--platforms='gpu' is not known"),
        (["--step=7"], "--step=7: there is no such checkpoint"),
    ],
)
def test_mistakes_are_one_line(workdir, tmp_path, capsys, arguments, message):
    assert main.main(["export", str(workdir), str(tmp_path / "export"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "export").exists()


def test_a_model_without_embeddings(random_params, tmp_path, capsys):
    config = model_kinds.config("tiny-captioner", data__train="shapes", steps=2)
    model_kinds.save(random_params, config, tmp_path / "run")
    assert main.main(["export", str(tmp_path / "run"), str(tmp_path / "export")]) == 2
    assert "embeds nothing that could be exported" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    assert main.main(["export", str(tmp_path / "run"), str(tmp_path / "full")]) == 2
    assert "is there already; give a new folder" in capsys.readouterr().err
