"""`mmjax convert` and `mmjax info`, and training that starts from another library's weights."""

import json
import re
import shlex
import shutil
from unittest import mock

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import mmjax
from mmjax.cli import convert as convert_lib
from mmjax.cli import main
from mmjax.config import parse, serialize
from mmjax.data.image.transforms import MEAN_STD
from mmjax.data.text.tokenizer import LARGEST_ID
from mmjax.errors import UserError
from mmjax.inference import convert
from mmjax.interop import foreign_checkpoint, param_translation
from mmjax.io import paths as paths_lib
from mmjax.parallel import partition
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.report import page
from mmjax.training import init_from, init_source, resumed_run
from tests.helpers import runs

GOLDEN = runs.ROOT / "tests/golden/interop"


def arrays(path):
    return foreign_checkpoint.open_checkpoint(path).read(lambda _, array: array)


def same(a, b):
    assert sorted(a) == sorted(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def convert_cli(*argv):
    return main.main(["convert", *map(str, argv)])


# -- between other libraries -------------------------------------------------------------------------------------------


def test_hugging_face_to_openclip_and_back(tmp_path, capsys):
    """Every array and every setting survive, the end of text as OpenCLIP has it; shards become one file."""
    assert convert_cli(GOLDEN / "hf-clip", tmp_path / "openclip", "--to=openclip") == 0
    assert convert_cli(tmp_path / "openclip", tmp_path / "hf", "--to=hf") == 0
    assert "model.safetensors" in capsys.readouterr().out
    first, second, third = (
        foreign_checkpoint.open_checkpoint(x) for x in (GOLDEN / "hf-clip", tmp_path / "openclip", tmp_path / "hf")
    )
    assert [x.format for x in (first, second, third)] == ["hf-clip", "openclip", "hf-clip"]
    assert [x.settings["text"].pop("eos_id") for x in (first, second, third)] == [
        39,
        LARGEST_ID,
        LARGEST_ID,
    ]
    assert first.settings == second.settings == third.settings
    rules = [x.preprocessing["image_rule"] for x in (first, second, third)]
    assert rules == ["huggingface", "open_clip", "huggingface"]  # each is its library's
    for name, value in first.preprocessing.items():
        assert name == "image_rule" or second.preprocessing[name] == third.preprocessing[name] == value
    same(arrays(GOLDEN / "hf-clip"), arrays(tmp_path / "hf"))
    theirs = {}
    for file in (GOLDEN / "hf-clip").glob("*.safetensors"):
        theirs |= load_file(file)
    same(theirs, load_file(tmp_path / "hf" / "model.safetensors"))


def test_openclip_written_again_is_the_same_file(tmp_path):
    folder = GOLDEN / "openclip-quickgelu"
    convert.convert(folder, tmp_path / "again", to="openclip")
    same(*(load_file(x / "open_clip_model.safetensors") for x in (folder, tmp_path / "again")))
    configs = [json.loads((x / "open_clip_config.json").read_text()) for x in (folder, tmp_path / "again")]
    assert configs[0]["model_cfg"] == configs[1]["model_cfg"]


def test_big_vision_to_hugging_face(tmp_path, capsys):
    """The same model came from Hugging Face: its names, shapes and numbers."""
    settings = {"image.image_size": 16, "text.causal": False, "text.pool": "last"}
    convert.convert(GOLDEN / "big_vision" / "siglip.npz", tmp_path / "hf", to="hf", settings=settings)
    assert "note: images were resized without antialiasing" in capsys.readouterr().out
    want, result = (foreign_checkpoint.open_checkpoint(x) for x in (GOLDEN / "hf-siglip", tmp_path / "hf"))
    assert result.settings == want.settings and result.preprocessing["interpolation"] == "bicubic"
    same(arrays(GOLDEN / "hf-siglip"), arrays(tmp_path / "hf"))


@pytest.mark.parametrize(
    "name, changes, to, message",
    [
        ("hf-siglip", {}, "openclip", "OpenCLIP takes SigLIP's image towers from timm.*none is like this.*--to=hf"),
        ("hf-clip", {"text.causal": False}, "hf", "model.text.causal=False: Hugging Face's CLIPModel has True there"),
        ("hf-clip", {"text.activation": "gelu"}, "openclip", "OpenCLIP has quick_gelu for both or none"),
        ("hf-clip", {"activation": "relu"}, "openclip", "model.image.activation='relu': OpenCLIP has gelu"),
        ("hf-clip", {"text.mask_padding": True}, "openclip", "model.text.mask_padding=True"),
        ("hf-clip", {}, "onnx", "--to='onnx' is not known; choose one of: mmjax, openclip, hf, big_vision"),
        ("hf-clip", {}, "mmjax", "no tokenizer lies beside it, and a workdir has one; give --tokenizer"),
    ],
)
def test_what_a_format_does_not_have_is_refused_and_nothing_written(tmp_path, name, changes, to, message):
    src = GOLDEN / name
    if changes:  # which only a model without a config takes
        src = shutil.copytree(src, tmp_path / "bare", ignore=shutil.ignore_patterns("*config.json", "expected.npz"))
        settings = {"activation": "quick_gelu", "norm_eps": 1e-5, "heads": 2, "image.image_size": 16, "text.eos_id": 39}
        changes = settings | changes
    with pytest.raises(UserError, match=message):
        convert.convert(src, tmp_path / "out", to=to, settings=changes)
    assert not (tmp_path / "out").exists()


def test_mistakes_of_the_command_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for argv, message in (
        ([GOLDEN / "hf-clip", tmp_path, "--to=hf"], "is there already; give a new folder"),
        (
            [GOLDEN / "hf-clip", tmp_path / "a", "--to=hf", "--model-config", "gelu"],
            "--model-config 'gelu' is not of the form",
        ),
        ([GOLDEN / "hf-clip", tmp_path / "a", "--to=hf", "--step=1"], "--step=1: .* is not the workdir of a run"),
        ([GOLDEN / "hf-clip", tmp_path / "a", "--to=hf", "--config.seed=1"], "use --model-config"),
        ([GOLDEN / "hf-clip", tmp_path / "a"], "--to; see --help"),
    ):
        assert convert_cli(*argv) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and re.search(message, error), error


# -- workdirs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """An OpenCLIP folder whose image tower is the tiny recipe's, and whose texts are bytes."""
    folder = tmp_path_factory.mktemp("other")
    config = runs.config()
    model = config.model.to_dict()
    shapes = param_translation.param_shapes(model)
    rng = np.random.default_rng(0)
    draw = lambda name, shape: (0.1 * rng.standard_normal(shape) + name.endswith("scale")).astype(np.float32)
    params = {name: draw(name, shape) for name, shape in shapes.items()}
    mean, std = MEAN_STD["clip"]
    spec = dict(size=16, resize="crop", interpolation="bicubic", mean=mean, std=std)
    convert.export.write(folder / "model", "openclip", settings=model, preprocessing=spec, params=params)
    return folder / "model", params


def test_a_workdir_is_evaluated_and_written_back(other, tmp_path, capsys):
    folder, params = other
    workdir = tmp_path / "run"
    assert convert_cli(folder, workdir, "--to=mmjax", "--tokenizer=bytes") == 0
    same(partition.flattened(mmjax.load(workdir).params), params)
    classes = runs.write_classes(tmp_path / "classes")
    with mock.patch.object(page, "write_report"):
        assert runs.eval_cli(f"--workdir={workdir}", f"--config.data.eval=folder:{classes}") == 0
    (record,) = json.loads((workdir / "eval" / "0.json").read_text())
    assert 0 <= record["metrics"]["acc1"] <= 1
    assert convert_cli(workdir, tmp_path / "back", "--to=openclip", "--step=9") == 2
    assert capsys.readouterr().err == "error: --step=9: there is no such checkpoint; there are 0\n"
    # Back again, for another library.
    assert convert_cli(workdir, tmp_path / "back", "--to=openclip") == 0
    assert "bytes" in capsys.readouterr().out
    same(arrays(tmp_path / "back"), params)
    # It is a model, not a run that could go on.
    config = serialize.from_json((workdir / "config.json").read_text())
    config.data.train = "shapes"
    with pytest.raises(UserError, match="holds a model of `mmjax convert`, not a run; .*--config.init_from="):
        resumed_run.check_workdir(config, paths_lib.as_path(workdir))


def test_weights_without_settings_are_evaluated_and_searched(other, tmp_path, capsys):
    """What a bare file does not tell is said on the command line."""
    folder, _ = other
    file = shutil.copy(folder / "open_clip_model.safetensors", tmp_path / "bare.safetensors")
    classes = runs.write_classes(tmp_path / "classes")
    settings = ("activation=gelu", "norm_eps=1e-5", "heads=2", "image.image_size=16")
    settings += ("text.causal=true", "text.pool=eos", "text.eos_id=-1")
    model_flags = ["--tokenizer=bytes", *(f"--model-config={text}" for text in settings)]
    data = f"--config.data.eval=folder:{classes}"
    with mock.patch.object(page, "write_report"):
        assert runs.eval_cli(f"--model={file}", f"--output={tmp_path / 'bare.json'}", data, *model_flags) == 0
        for output, flags in (("whole.json", model_flags[:1]), ("no.json", [])):
            status = runs.eval_cli(f"--model={folder}", f"--output={tmp_path / output}", data, *flags)
            assert status == (0 if flags else 2)
    assert "the flag --tokenizer=" in capsys.readouterr().err
    bare, complete = (json.loads((tmp_path / name).read_text())[0]["metrics"] for name in ("bare.json", "whole.json"))
    assert bare == complete
    assert runs.eval_cli(f"--workdir={tmp_path}", data, *model_flags) == 2
    assert "--tokenizer=bytes needs --model" in capsys.readouterr().err
    with runs.shared_compilation(), runs.on_devices(1):
        assert main.main(["search", "cat", f"--model={file}", f"--images={classes}", "--top=1", *model_flags]) == 0


class TestInitFrom:
    def read(self, folder, **changes):
        config = runs.config(init_from=str(folder), **changes)
        mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=1), jax.devices()[:2])
        shapes = param_translation.param_shapes(config.model.to_dict())
        tree = partition.nested({name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()})
        shardings, _ = partition.param_shardings(tree, mesh, MeshConfig(sharding="fsdp"))
        return init_from.read(partition.placed_shapes(tree, shardings), parse(config)).arrays

    def test_all_of_it(self, other, capsys):
        folder, params = other
        same(self.read(folder), params)
        assert (
            f"took {len(params)} of {len(params)} parameter arrays from {folder} (OpenCLIP)" in capsys.readouterr().out
        )

    def test_one_tower_of_another_resolution(self, other):
        """LiT: the text tower here may be any."""
        folder, params = other
        paths = ("image/.*", "image_head/.*")
        result = self.read(folder, init_paths=paths, model__image__image_size=32, model__text__activation="gelu_tanh")
        assert result["image/position_embedding"].shape == (17, 32)
        same(
            {name: x for name, x in result.items() if name != "image/position_embedding"},
            {
                name: x
                for name, x in params.items()
                if name.startswith(("image/", "image_head/")) and name != "image/position_embedding"
            },
        )

    @pytest.mark.parametrize(
        "changes, message",
        [
            (
                {"model__image__activation": "quick_gelu"},
                r"another setting \(model.image.activation: gelu -> quick_gelu",
            ),
            ({"model__text__norm_eps": 1e-6}, r"model.text.norm_eps: 1e-05 -> 1e-06"),
            ({"data__mean_std": "siglip"}, "data.mean_std: clip -> siglip"),
            ({"model__text__width": 64}, r"text/.* has shape .* there and has shape .* here"),
            ({"model__text__depth": 2}, r"text/transformer/.* has shape \(1, .*\) there and has shape \(2, "),
        ],
    )
    def test_another_function_or_shape(self, other, changes, message):
        with pytest.raises(UserError, match=message):
            self.read(other[0], **changes)

    def test_weights_that_do_not_tell_enough(self, other, tmp_path):
        shutil.copy(other[0] / "open_clip_model.safetensors", tmp_path)
        with pytest.raises(UserError, match="init_from: .* do not tell activation, heads .*, norm_eps, ") as caught:
            self.read(tmp_path)
        # What is told can be pasted, with the model's own values.
        command = str(caught.value).partition("mmjax convert ")[2].partition(";")[0]
        command = (
            command.replace("quick_gelu", "gelu").replace("heads=8", "heads=2").replace("DST", str(tmp_path / "dst"))
        )
        assert convert_lib.main(shlex.split(command)) == 0
        same(self.read(tmp_path / "dst"), other[1])

    def test_what_is_called_otherwise_is_the_same_tokenizer(self, tmp_path):
        config = runs.config(data__tokenizer="sentencepiece:" + str(tmp_path / "b.model"))
        for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
            (tmp_path / f"{name}.model").write_bytes(content)

        def same_as(tokenizer, file):
            result = init_source.Source("", (), {"data.tokenizer": tokenizer}, {}, None, None, lambda: file)
            return init_from._same_tokenizer(result, parse(config))

        assert same_as("sentencepiece:elsewhere", b"1") and same_as("none", None)
        assert not same_as("sentencepiece:elsewhere", b"2")
        assert not same_as("json:elsewhere", b"1") and not same_as("clip", None)


# -- info --------------------------------------------------------------------------------------------------------------


def test_info(capsys, tmp_path, other):
    assert main.main(["info", str(GOLDEN / "hf-clip")]) == 0
    output = capsys.readouterr().out
    for part in (
        "Hugging Face's CLIPModel, model.safetensors.index.json, 57,364 bytes",
        "from config.json",
        "image_size 16, patch_size 8, width 16, depth 2, heads 2, mlp_dim 24, quick_gelu, norm_eps 1e-05, pool cls",
        "vocab_size 40, context_length 7",
        "12 numbers;",
        "16 pixels, crop, bilinear, by the rule of huggingface; mean [0.485, 0.456, 0.406]",
        "none beside it",
    ):
        assert part in output, part
    shapes = foreign_checkpoint.open_checkpoint(GOLDEN / "hf-clip").shapes
    assert f"{sum(int(np.prod(shape)) for shape in shapes.values()):,} parameters in all" in output
    custom = str(GOLDEN / "openclip-custom" / "epoch_3.pt")
    assert main.main(["info", custom]) == 2
    assert "do not tell activation, heads (no published tower" in capsys.readouterr().err
    settings = ("activation=gelu", "norm_eps=1e-5", "heads=2", "image.image_size=16", "text.causal=true")
    settings += ("text.pool=eos", "text.eos_id=39")
    assert main.main(["info", custom, *(f"--model-config={text}" for text in settings)]) == 0
    assert "from shapes and what was given" in capsys.readouterr().out
    convert.convert(other[0], tmp_path / "run", to="mmjax", tokenizer="bytes")
    assert main.main(["info", str(tmp_path / "run")]) == 0
    output = capsys.readouterr().out
    assert "0; shown: 0" in output and "bytes, 259 ids, 32 a text" in output and "mmjax workdir" in output


def test_a_run_of_shorter_texts_has_their_length(tmp_path):
    """Its table has more positions than its texts have tokens, and a SigLIP pools at the last of them."""
    options = dict(data__context_length=8, data__tokenizer="bytes")
    assert runs.train(runs.config(steps=2, checkpoint__every=2, **options), tmp_path / "run") is None
    convert.convert(tmp_path / "run", tmp_path / "out", to="openclip")
    ours, theirs = mmjax.load(tmp_path / "run"), mmjax.load(tmp_path / "out", tokenizer="bytes")
    assert theirs.config.model.text.context_length == 8 < ours.config.model.text.context_length
    texts = ["a red circle left of a blue square", "a", ""]
    np.testing.assert_allclose(theirs.encode_text(texts), ours.encode_text(texts), atol=1e-5)


def test_info_as_json(capsys, tmp_path, other):
    convert.convert(other[0], tmp_path / "run", to="mmjax", tokenizer="bytes")
    capsys.readouterr()
    for path, format_ in ((GOLDEN / "hf-clip", "hf-clip"), (tmp_path / "run", "mmjax")):
        assert main.main(["info", str(path), "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["path"] == str(path) and content["format"] == format_
        assert content["parameters"] == sum(int(np.prod(shape)) for shape in content["shapes"].values())
        assert content["model"]["kind"] == "two_tower" and len(content["preprocessing"]["mean"]) == 3
    assert content["steps"] == [0] and "encode_image" in content["can"] and content["tokenizer"] == "bytes"
