"""Files that are damaged, of another model, or do not fit their config: each is one clear line."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint
from mmjax.interop.tensor_files import open_tensors
from mmjax.io import paths
from tests.interop.test_foreign_checkpoint import AS_CLIP, AS_SIGLIP, GIVEN, GOLDEN, HEADS


@pytest.fixture
def folder(tmp_path):
    """A copy of an OpenCLIP folder."""
    shutil.copytree(GOLDEN / "openclip-quickgelu", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def change(folder):
    """Changes the weights of the copy; returns the folder."""
    path = folder / "open_clip_model.safetensors"

    def change(edit):
        arrays = load_file(path)
        save_file(edit(arrays) or arrays, path)
        return folder

    return change


def refused(path, message, **changes):
    with pytest.raises(UserError, match=message) as error:
        foreign_checkpoint.open_checkpoint(path, changes)
    assert "\n" not in str(error.value)


def test_truncated_safetensors(folder):
    path = folder / "open_clip_model.safetensors"
    content = path.read_bytes()
    for size in (0, 5, 100, len(content) - 1):
        path.write_bytes(content[:size])
        refused(folder, "open_clip_model.safetensors: not a whole safetensors file")


def test_missing_unknown_and_misshapen_parameters_are_named(change):
    refused(
        change(lambda arrays: {k: v for k, v in arrays.items() if k != "visual.ln_post.weight"}),
        "the parameter visual.ln_post.weight is missing",
    )
    refused(
        change(lambda arrays: arrays | {"visual.ln_post.weight": np.ones(15, np.float32)}),
        r"visual.ln_post.weight has shape \[15\], but its config makes it \[16\]",
    )
    change(lambda arrays: arrays | {"visual.ln_post.weight": np.ones(16, np.float32)})
    refused(
        change(lambda arrays: arrays | {"visual.ln_pots.weight": np.ones(16, np.float32)}),
        "the parameter visual.ln_pots.weight is unknown",
    )


def test_a_nearby_name_is_offered(change):
    def misspell(arrays):
        arrays["ln_finale.weight"] = arrays.pop("ln_final.weight")

    refused(change(misspell), r"ln_final.weight is missing \(did you mean 'ln_finale.weight'\?\)")


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"state_dict.module.{name}",
        lambda name: name.replace("visual.", "visual._orig_mod."),
        lambda name: f"_fsdp_wrapped_module.{name}",
        lambda name: name.replace("resblocks.0.", "resblocks.0._fsdp_wrapped_module._checkpoint_wrapped_module."),
        lambda name: f"state_dict.model.{name}",  # Lightning's
        lambda name: f"state_dict.net.clip.{name}",
    ],
)
def test_what_trainers_put_around_names_is_taken_off(change, rename):
    folder = change(lambda arrays: {rename(name): x for name, x in arrays.items()})
    assert foreign_checkpoint.open_checkpoint(folder).format == "openclip"


def test_half_precision_and_scalars_in_brackets(change):
    want = foreign_checkpoint.open_checkpoint(GOLDEN / "openclip-quickgelu").read(lambda _, x: x)
    half = change(lambda arrays: {k: x.astype(np.float16).reshape(x.shape or 1) for k, x in arrays.items()})
    for path, x in foreign_checkpoint.open_checkpoint(half).read(lambda _, x: x).items():
        assert x.dtype == np.float32 and x.shape == want[path].shape
        np.testing.assert_array_equal(x, want[path].astype(np.float16))


@pytest.mark.parametrize(
    "names, message",
    [
        (["bert.embeddings.word_embeddings.weight"], "not a CLIP or SigLIP of .* its parameters are bert.embeddings"),
        (["visual.layer1.0.conv1.weight"], "a ResNet alone"),
        (["visual.conv1.weight", "text.cls_emb"], "a class token in its texts, as CoCa has it"),
        (["text.transformer.block.0.layer.0.layer_norm.weight"], "Hugging Face text tower that is none of BERT's"),
        (["params/img/cls"], "a big_vision tower with a class token .*, which is not read"),
        ([], "its parameters are none at all"),
    ],
)
def test_models_of_other_families(tmp_path, names, message):
    save_file({name: np.zeros((2, 2), np.float32) for name in names}, tmp_path / "a.safetensors")
    refused(tmp_path, message)


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("vision_cfg.pool_type", "map", "vision_cfg.pool_type='map' is not read; mmjax reads tok, avg"),
        ("vision_cfg.layers", [3, 4, 6], r"image.blocks=\(3, 4, 6\) wants 4 numbers"),
        ("vision_cfg.ls_init_value", -0.1, "ls_init_value=-0.1 is not read; mmjax has layer scales that start above 0"),
        ("vision_cfg.some_new_option", True, "vision_cfg.some_new_option=True is not read"),
        ("vision_cfg.act_kwargs", {"approximate": "tanh"}, "with quick_gelu=True is not read"),
        ("vision_cfg.width", "wide", "not a config of OpenCLIP"),
        ("vision_cfg.head_width", 5, "image.heads=3 does not divide image.width=16"),
        ("vision_cfg.timm_model_name", "convnext_nano", "timm_model_name='convnext_nano' is not read"),
        ("text_cfg.pool_type", "first", "text_cfg.pool_type='first' is not read"),
        (
            "text_cfg.hf_model_name",
            "google/mt5-base",
            "text_cfg.hf_model_name='google/mt5-base' is not read; of Hugging",
        ),
        ("text_cfg.hf_model_name", "/etc", "text_cfg.hf_model_name='/etc' is not read"),
        ("text_cfg.hf_model_name", "roberta-base", "text.transformer.embeddings.word_embeddings.weight is missing"),
        ("text_cfg.layers", 3, "transformer.resblocks.2.ln_1.weight .* is missing"),
        ("text_cfg.layers", 1, "transformer.resblocks.1.* is unknown"),
        ("text_cfg.layers", 0, "text.depth=0 must be at least 1"),
        ("multimodal_cfg", {}, "a CoCa without text_cfg.embed_cls"),
        ("embed_dim", None, "embed_dim=None: wants a value such as 512"),
    ],
)
def test_configs_of_openclip(folder, path, value, message):
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    *parents, last = path.split(".")
    node = config["model_cfg"]
    for part in parents:
        node = node[part]
    node[last] = value
    file.write_text(json.dumps(config))
    refused(folder, message)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "siglip2"}, "NaFlex"),
        ({"model_type": "flava"}, "model_type='flava' is not read"),
        (
            {"text_config": {"hidden_act": "gelu2"}},
            r"text_config.hidden_act='gelu2' is not known \(did you mean 'gelu'",
        ),
        ({"vision_config": {"num_channels": 1}}, "vision_config.num_channels=1"),
        ({"vision_config": {"image_size": [16, 24]}}, r"vision_config.image_size=\[16, 24\] is not one number"),
        ({"vision_config": 3}, "not a config of Hugging Face"),
        ({"vision_config": {"hidden_size": 1.5}}, "image.width=1.5: wants a value such as 768"),
        ({"text_config": {"num_attention_heads": 5}}, "text.heads=5 does not divide text.width"),
    ],
)
def test_configs_of_hugging_face(tmp_path, changes, message):
    shutil.copytree(GOLDEN / "hf-clip", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    for name, value in changes.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(config))
    refused(tmp_path / "model", message)


def test_shards(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "hf-clip", folder)
    refused(folder / "model-00001-of-00003.safetensors", "one of several files of a model; give their folder")
    index = folder / "model.safetensors.index.json"
    weight_map = json.loads(index.read_text())
    first = weight_map["weight_map"]["logit_scale"]
    index.write_text(json.dumps({"weight_map": weight_map["weight_map"] | {"logit_scale": f"../{first}"}}))
    refused(folder, "names the file '../model-.*', which is not beside it")
    other = next(name for name in weight_map["weight_map"].values() if name != first)
    index.write_text(json.dumps({"weight_map": weight_map["weight_map"] | {"logit_scale": other}}))
    refused(folder, "logit_scale is not in model-")
    index.write_text("{}")
    refused(folder, "not an index of weights")
    index.write_text(json.dumps(weight_map))
    (folder / first).unlink()
    refused(folder, f"{first}: there is no such file")


def test_npz_files(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **{"params/img/embedding/kernel": np.array([{}], dtype=object)})
    refused(path, "holds Python objects, which are not read")
    path.write_bytes((GOLDEN / "big_vision" / "siglip.npz").read_bytes()[:5000])
    refused(path, "not a whole .npz file")
    with np.load(GOLDEN / "big_vision" / "siglip.npz") as file:
        arrays = dict(file)
    del arrays["params/txt/Encoder_0/encoder_norm/bias"]
    np.savez(path, **arrays)
    refused(path, "the parameter txt/Encoder_0/encoder_norm/bias is missing", **AS_SIGLIP)


def test_paths(tmp_path):
    refused(tmp_path / "nowhere", "there is no such file or folder")
    refused(tmp_path, "holds neither a run's checkpoints nor a file of weights")
    for name in ("a.pt", "b.safetensors"):
        (tmp_path / name).write_bytes(b"")
    refused(tmp_path, r"holds several files of weights \(a.pt, b.safetensors\)")
    (tmp_path / "c.onnx").write_bytes(b"")
    refused(tmp_path / "c.onnx", ".onnx is not a format of weights")
    assert paths.scheme("gs://bucket/model")
    refused("gs://bucket/model", "copy them there first")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"activatoin": "gelu"}, r"activatoin='gelu': a model has no such setting \(did you mean 'activation'\?\)"),
        ({"image.heads": "two"}, "image.heads='two': wants a value such as 12"),
        ({"activation": "swiglu"}, "activation='swiglu' is not known"),
        ({"image.heads": 3}, "image.heads=3 does not divide"),
        ({"image.heads": 0}, "image.heads=0 must be at least 1"),
        (
            {"text.pool": "map "},
            r"text.pool='map ' is not known \(did you mean 'map'\?\); choose one of: cls, mean, last",
        ),
        ({"text.pool": "cls"}, "text.pool='cls' sees the first token alone where text.causal=True"),
        ({"image.pool": "eos"}, "image.pool='eos' is not known"),
        ({"image.projection": "mlp"}, "image.projection='mlp' is not known"),
        ({"norm_eps": 0}, "norm_eps=0.0 must be greater than 0 and less than 1"),
        ({"norm_eps": -1e-5}, "norm_eps=-1e-05 must be greater than 0"),
        ({"norm_eps": float("nan")}, "norm_eps=nan must be greater than 0"),
        ({"text.eos_id": 40}, "text.eos_id=40 is none of the 40 ids, and texts are pooled there"),
        ({"text.eos_id": -2}, "text.eos_id=-2 is none of the 40 ids"),
        ({"image.depth": 10**9}, "image.depth=1000000000 is more than any model has"),
    ],
)
def test_settings_that_a_person_gives(changes, message):
    settings = GIVEN["openclip-custom"] | changes
    with pytest.raises(UserError, match=message) as error:
        foreign_checkpoint.open_checkpoint(GOLDEN / "openclip-custom" / "epoch_3.pt", settings)
    assert "\n" not in str(error.value)


def test_an_end_of_text_that_is_not_used_may_be_any():
    """A SigLIP pools at the last position."""
    settings = GIVEN["openclip-siglip"] | {"text.eos_id": 99}
    assert foreign_checkpoint.open_checkpoint(GOLDEN / "openclip-siglip", settings).settings["text"]["eos_id"] == 99


def test_settings_against_the_config_are_refused():
    path = GOLDEN / "openclip-quickgelu"
    refused(
        path,
        r"activation='gelu' was given, but the model of .*open_clip_config.json has image.activation='quick_gelu';"
        " leave it out, or correct the file",
        activation="gelu",
    )
    refused(path, "norm_eps=0.001 was given, but .* has image.norm_eps=1e-05", norm_eps=1e-3)
    refused(GOLDEN / "hf-siglip", "text.activation='gelu' was given.*config.json", **{"text.activation": "gelu"})
    assert (
        foreign_checkpoint.open_checkpoint(path, {"activation": "quick_gelu", "image.heads": 2}).config_file is not None
    )


def test_a_whole_number_for_an_epsilon_is_one_all_the_same(folder):
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"]["norm_kwargs"] = {"eps": 0}
    file.write_text(json.dumps(config))
    refused(folder, "open_clip_config.json: text.norm_eps=0.0 must be greater than 0")
    shutil.copytree(GOLDEN / "hf-clip", folder.parent / "hf")
    file = folder.parent / "hf" / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["layer_norm_eps"] = 0
    file.write_text(json.dumps(config))
    refused(file.parent, "config.json: text.norm_eps=0.0 must be greater than 0")
    config["text_config"] |= {"layer_norm_eps": 1e-5, "eos_token_id": 40}
    file.write_text(json.dumps(config))
    refused(file.parent, "config.json: text.eos_id=40 is none of the 40 ids")


@pytest.mark.parametrize("nest", ["model.", "model_state_dict.", "state_dict."])
def test_a_model_beside_an_optimizer(nest, change):
    folder = change(lambda arrays: {f"{nest}{k}": x for k, x in arrays.items()} | {"optimizer.exp": np.ones(3)})
    assert foreign_checkpoint.open_checkpoint(folder).format == "openclip"


def test_several_models_in_a_file(change):
    """One that was averaged beside it: which one is meant cannot be known."""
    folder = change(lambda arrays: {f"{part}.{k}": x for k, x in arrays.items() for part in ("clip", "ema")})
    refused(folder, r"holds several models \(clip\.\*, ema\.\*\)")


@pytest.mark.full
def test_a_lightning_checkpoint(tmp_path):
    import torch

    shapes = open_tensors(GOLDEN / "openclip-quickgelu" / "open_clip_model.safetensors")
    arrays = {f"model.{name}": torch.zeros(shape) for name, shape in shapes.items()}
    shutil.copy(GOLDEN / "openclip-quickgelu" / "open_clip_config.json", tmp_path)
    torch.save({"state_dict": arrays, "pytorch-lightning_version": "2.4", "loops": {}}, tmp_path / "last.ckpt")
    assert foreign_checkpoint.open_checkpoint(tmp_path / "last.ckpt").format == "openclip"


@pytest.mark.parametrize("inside", [True, False], ids=["prefixed", "bare"])
@pytest.mark.parametrize(("tower", "kind"), [("text_model.", "a text tower"), ("vision_model.", "an image tower")])
def test_a_lone_tower(tmp_path, tower, kind, inside):
    arrays = open_tensors(GOLDEN / "hf-clip" / "model.safetensors.index.json")
    names = [name for name in arrays if name.startswith(tower)]
    lone = {name if inside else name.removeprefix(tower): arrays.read(name) for name in names}
    save_file(lone, tmp_path / "model.safetensors")
    refused(tmp_path, f"model.safetensors: {kind} alone")


def test_folders_of_the_hubs_cache_and_of_sentence_transformers(tmp_path):
    model = tmp_path / "models--openai--clip"
    shutil.copytree(GOLDEN / "hf-clip", model / "snapshots" / "abc")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    assert foreign_checkpoint.open_checkpoint(model).format == "hf-clip"
    refused(tmp_path, r"the Hub's cache, and no model; give one of its folders \(models--openai--clip\)")
    (model / "refs" / "main").unlink()
    assert foreign_checkpoint.open_checkpoint(model).path.parent.name == "abc"
    (model / "snapshots" / "def").mkdir()
    refused(model, "the Hub's cache of 2 versions")

    sentences = tmp_path / "sentences"
    shutil.copytree(GOLDEN / "hf-clip", sentences / "0_CLIPModel")
    modules = [{"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}]
    (sentences / "modules.json").write_text(json.dumps(modules))
    assert foreign_checkpoint.open_checkpoint(sentences).format == "hf-clip"
    (sentences / "modules.json").write_text(json.dumps([modules[0] | {"type": "sentence_transformers.models.Pooling"}]))
    refused(sentences, "without a CLIP .*Pooling")
    (sentences / "modules.json").write_text(json.dumps([modules[0] | {"path": "1_CLIPModel"}]))
    refused(sentences, "'1_CLIPModel' with the CLIP is missing")
    (sentences / "modules.json").write_text("{")
    refused(sentences, "modules.json: not the modules")


def test_what_is_no_file_of_weights(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors", "is a pipe, a device or a socket")
    refused("/dev/null", "is a pipe, a device or a socket")
    refused(tmp_path / "gone.safetensors", "there is no such file")
    for ending in ("safetensors", "bin"):
        (tmp_path / f"lfs.{ending}").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        refused(tmp_path / f"lfs.{ending}", "git lfs pull")


def test_the_command_that_is_offered_is_whole():
    path = GOLDEN / "openclip-custom" / "epoch_3.pt"
    refused(path, f"mmjax convert {path} DST --to=mmjax --model-config activation=quick_gelu", **AS_CLIP, **HEADS)


def test_the_hub_needs_its_package(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("hf-hub:openai/clip-vit-base-patch32", "needs the package huggingface_hub; pip install huggingface_hub")
