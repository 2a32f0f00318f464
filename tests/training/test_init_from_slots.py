"""Any slot from any source: CLIP's image tower a frame or in a classifier, transformers' towers, other contexts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax import tasks
from mmjax.config import parse
from mmjax.config.schema import base_config, set_group
from mmjax.data.image.transforms import MEAN_STD
from mmjax.data.table_columns import TableColumns
from mmjax.errors import UserError
from mmjax.interop import export, media_towers
from mmjax.nn import positions
from mmjax.parallel import mesh as mesh_lib
from mmjax.parallel import partition
from mmjax.parallel.config import MeshConfig
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import init_from
from tests.helpers import model_kinds, runs

LAYERS = dict(width=16, depth=2, heads=2, mlp_dim=32)
IMAGE = dict(LAYERS, image_size=16, patch_size=8, norm_eps=1e-5)
AUDIO = dict(LAYERS, kind="audio", frames=12, mel_bins=8, patch_size=(4, 4), stride=(3, 3), distillation_token=True)
VIDEO = dict(LAYERS, kind="video", frames=4, image_size=16, patch_size=8, positions="joint")
TABLE = dict(LAYERS, kind="table", numeric=4, categories=(4, 6))
SETTINGS = {"vivit": {"video": VIDEO}, "ast": {"audio": AUDIO}}


@pytest.fixture(scope="module")
def clip(random_params, tmp_path_factory):
    """An OpenCLIP folder of a small CLIP, and its parameters by path."""
    folder = tmp_path_factory.mktemp("clip")
    config = base_config("tiny")
    model = config.model.to_dict()
    model["image"] |= IMAGE
    model["text"] |= dict(LAYERS, context_length=6, vocab_size=259, eos_id=258)
    set_group(config, "model", model)
    config.data.tokenizer, config.objectives.itc = "bytes", 1.0
    shapes = jax.eval_shape(model_kinds.task(config).init, jax.random.key(0))
    params = partition.flattened(random_params(shapes, std=0.3))
    mean, std = MEAN_STD["clip"]
    spec = dict(size=16, resize="crop", interpolation="bicubic", mean=mean, std=std)
    export.write(folder / "x", "openclip", settings=config.model.to_dict(), preprocessing=spec, params=params)
    return folder / "x", params


@pytest.fixture(scope="module")
def tower(random_params, tmp_path_factory):
    """Writes a tower as transformers would, with a classifier; the folder and its parameters."""

    def write(name):
        folder, settings = tmp_path_factory.mktemp(name), SETTINGS[name]
        shapes = media_towers.param_shapes(settings) | {"head/kernel": (16, 9), "head/bias": (9,)}
        if name == "ast":
            shapes |= {"head_norm/scale": (16,), "head_norm/bias": (16,)}
        tree = {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in shapes.items()}
        params = {path: np.asarray(x) for path, x in random_params(tree, std=0.3).items()}
        media_towers.write_tower(folder, settings, params)
        return folder, params

    return write


def classifier(data, classes, **encoders):
    """A classifier of a data set by encoders."""
    config = base_config("tiny")
    model = dict(kind="fused", encoders=encoders, fusion=dict(LAYERS, kind="joint"), classes=classes)
    set_group(config, "model", model)
    config.data.train, config.objectives.classify = data, 1.0
    return config


def towers(**slots):
    """A tower and one of texts."""
    config = base_config("tiny")
    text = config.model.text.to_dict() | dict(LAYERS, vocab_size=259, eos_id=258, context_length=6)
    slots = {
        name: dict(settings, pool="mean" if settings["kind"] == "frames" else "cls", projection="linear")
        for name, settings in slots.items()
    }
    set_group(config, "model", dict(kind="two_tower", embed_dim=config.model.embed_dim, text=text, **slots))
    config.data.tokenizer, config.objectives.itc = "bytes", 1.0
    return config


def read(config, source, **changes):
    """What a run of a config takes of a source."""
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.update(init_from=str(source))
        config.update_from_flattened_dict({path.replace("__", "."): value for path, value in changes.items()})
    shapes = jax.eval_shape(model_kinds.task(config).init, jax.random.key(0))
    replicated = mesh_lib.replicated(make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1]))
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), shapes)
    return init_from.read(placed, parse(config))


def assert_same(arrays, params, names):
    """Arrays by our path are the source's by theirs."""
    assert arrays.keys() == names.keys()
    for name, theirs in names.items():
        np.testing.assert_array_equal(arrays[name], params[theirs], err_msg=name)


def test_clips_image_tower_for_each_frame_with_its_projection(clip, capsys):
    frames = dict(IMAGE, kind="frames", frames=4)
    taken = read(towers(video=frames), clip[0])
    renamed = {path.replace("image/", "video/image/").replace("image_", "video_"): path for path in clip[1]}
    assert "video_head/projection/kernel" in renamed
    assert_same(taken.arrays, clip[1], renamed)
    assert not taken.fresh and not taken.left
    count = len(clip[1])
    lines = capsys.readouterr().out.splitlines()
    source = f"{clip[0]} (OpenCLIP)"
    assert lines[0].endswith(
        f"took {count} of {count} parameter arrays from {source} (image as video/image, image_head as video_head)"
    )


@pytest.mark.full
@pytest.mark.parametrize("pool, temporal", [("mean", "mean"), ("unit_mean", "none")])
def test_a_video_of_one_frame_is_that_image(clip, pool, temporal, tmp_path):
    """One frame again and again is embedded as CLIP embeds the image; several by the definition of CLIP4Clip's meanP.

    That is the mean of the frames' embeddings, each of unit length, or of CLIP's projection of their mean.
    """
    config = towers(video=dict(IMAGE, kind="frames", frames=4, temporal=temporal))
    config.model.video.pool, config.precision = pool, "float32"
    taken = read(config, clip[0])
    assert not taken.fresh
    fill = lambda shapes, **_: partition.map_with_path(lambda path, _: taken.arrays[path], shapes)
    model_kinds.save(fill, config, tmp_path)
    theirs, ours = mmjax.load(clip[0]), mmjax.load(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), np.uint8)
    images = theirs.encode_image([Image.fromarray(frame) for frame in pixels.reshape(12, 16, 16, 3)])
    images = images.reshape(3, 4, -1).astype(np.float64)
    repeated = [np.repeat(video[:1], 4, axis=0) for video in pixels]
    np.testing.assert_allclose(ours.encode_video(repeated), images[:, 0], atol=1e-5)
    of_videos = ours.encode_video(list(pixels))
    mean = images.mean(axis=1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    is_of_units = np.abs(of_videos - mean).max() < 1e-5
    assert is_of_units == (pool == "unit_mean")


def test_layers_that_are_added_to_frames_are_fresh(clip):
    """CLIP4Clip's seqTransf: CLIP's tower and projection are taken, and the frames' layers are not."""
    frames = dict(IMAGE, kind="frames", frames=4, temporal="residual", temporal_depth=1)
    config = towers(video=frames)
    config.model.video.pool = "unit_mean"
    taken = read(config, clip[0])
    assert {name.split("/")[1] for name in taken.fresh} == {"time_embedding", "transformer"}
    np.testing.assert_array_equal(taken.arrays["video_head/projection/kernel"], clip[1]["image_head/projection/kernel"])


def test_layers_over_frames_are_fresh_and_texts_of_another_length_cut(clip, capsys):
    frames = dict(IMAGE, kind="frames", frames=4, temporal="transformer", temporal_depth=1, image_size=24)
    taken = read(towers(video=frames), clip[0], model__text__context_length=4)
    assert {name.split("/")[1] for name in taken.fresh} == {"time_embedding", "transformer", "norm"}
    old, grids = jnp.asarray(clip[1]["image/position_embedding"]), ((2, 2), (3, 3))
    want = positions.resample_positions(old, *grids, prefix=1)
    np.testing.assert_allclose(taken.arrays["video/image/position_embedding"], want, atol=1e-6)
    np.testing.assert_array_equal(taken.arrays["text/position_embedding"], clip[1]["text/position_embedding"][:4])
    output = capsys.readouterr().out
    assert "resampled video/image/position_embedding from 2 x 2 to 3 x 3 patches" in output
    assert "cut text/position_embedding from 6 to its first 4" in output
    assert "not taken, and so fresh: video (" in output


def test_clips_image_tower_in_a_classifier(clip, capsys):
    taken = read(classifier("sensors", 8, image=dict(IMAGE, kind="image"), table=TABLE), clip[0])
    names = {path.replace("image/", "encoder_image/"): path for path in clip[1] if path.startswith("image/")}
    assert_same(taken.arrays, clip[1], names)
    assert {name.split("/")[0] for name in taken.fresh} == {"encoder_table", "fusion", "head"}
    assert {name.split("/")[0] for name in taken.left} == {"image_head", "text", "text_head", "logit_scale"}
    assert "left there: image_head, logit_scale, text (" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("name, slot", [("vivit", "video"), ("ast", "audio")])
def test_towers_of_transformers(tower, name, slot):
    folder, params = tower(name)
    encoder = {slot: SETTINGS[name][slot]}
    of_tower = [path for path in params if path.startswith(f"{slot}/")]
    taken = read(towers(**encoder), folder)
    assert_same(taken.arrays, params, {path: path for path in of_tower})
    assert "text/token_embedding" in taken.fresh and "head/kernel" in taken.left
    taken = read(classifier("actions", 9, **encoder), folder)
    assert_same(taken.arrays, params, {f"encoder_{path}": path for path in of_tower})
    assert "head/kernel" in taken.fresh


def test_a_head_is_taken_by_name(tower):
    folder, params = tower("vivit")
    config = classifier("actions", 9, video=VIDEO)
    taken = read(config, folder, init_map=(("head/(.*)", r"head/\1"),))
    np.testing.assert_array_equal(taken.arrays["head/kernel"], params["head/kernel"])


def test_names_of_towers_choose(clip):
    frames = dict(IMAGE, kind="frames", frames=4)
    taken = read(towers(video=frames), clip[0], init_paths=("video",))
    assert {name.split("/")[0] for name in taken.arrays} == {"video", "video_head"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model__video__activation": "gelu_tanh"}, r"another setting \(model.video.activation: gelu -> gelu_tanh\)"),
        ({"data__mean_std": "siglip"}, r"another setting \(data.mean_std: clip -> siglip\)"),
        ({"model__text__causal": False}, r"another setting \(model.text.causal: True -> False\)"),
        ({"model__video__depth": 1}, r"video/image/transformer/.* \(there image/transformer/.*\) has shape \(2, "),
        ({"model__video__patch_bias": True}, "video/image/patch_embed/bias does not exist there"),
        ({"init_paths": ("logit_bias",)}, "init_paths='logit_bias' matches no parameter path"),
        ({"init_map": (("audio/(.*)", "x"),)}, r"init_map\[0\]=\('audio/\(.*\)', 'x'\) matches none"),
        ({"model__video__temporal": "transformer", "init_paths": ("video",)}, "video/norm/bias does not exist there"),
    ],
)
def test_what_does_not_fit_is_one_line(clip, changes, message):
    frames = dict(IMAGE, kind="frames", frames=4, temporal_depth=0)
    config = towers(video=frames)
    with pytest.raises(UserError, match=message) as error:
        read(config, clip[0], **changes)
    assert "\n" not in str(error.value)


def test_sounds_prepared_otherwise(tower):
    folder, _ = tower("ast")
    with pytest.raises(UserError, match=r"another setting \(data.audio.preset: ast -> whisper\)"):
        read(towers(audio=AUDIO), folder, data__audio__preset="whisper")


def test_nothing_that_is_of_this_model(tower, clip):
    series = dict(LAYERS, kind="series", steps=6, patch_length=2)
    with pytest.raises(UserError, match="has nothing of this model: its parameters are video/..., head/..., the model"):
        read(classifier("sensors", 8, series=series), tower("vivit")[0])


@pytest.mark.full
@pytest.mark.parametrize("name", ["vivit", "ast"])
def test_tokens_are_those_of_transformers(name, tmp_path):
    import torch
    import transformers

    torch.manual_seed(0)
    layers = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, hidden_act="gelu")
    rng = np.random.default_rng(0)
    if name == "vivit":
        sizes = dict(image_size=16, num_frames=4, tubelet_size=[2, 8, 8], layer_norm_eps=1e-6)
        theirs, x = (
            transformers.VivitModel(transformers.VivitConfig(**layers, **sizes)),
            rng.normal(size=(2, 4, 16, 16, 3)),
        )
        seen = torch.tensor(x.transpose(0, 1, 4, 2, 3), dtype=torch.float32)
    else:
        sizes = dict(
            patch_size=4, max_length=12, num_mel_bins=8, time_stride=3, frequency_stride=3, layer_norm_eps=1e-6
        )
        theirs, x = transformers.ASTModel(transformers.ASTConfig(**layers, **sizes)), rng.normal(size=(2, 12, 8))
        seen = torch.tensor(x, dtype=torch.float32)
    theirs.eval().save_pretrained(tmp_path)
    (slot, settings), *_ = SETTINGS[name].items()
    taken = read(classifier("actions", 9, **{slot: settings}), tmp_path)
    prefix = f"encoder_{slot}/"
    assert all(path.startswith(prefix) for path in taken.arrays)
    params = {path.removeprefix(prefix): array for path, array in taken.arrays.items()}
    module = media_towers.make_part(slot, settings)
    ours = module.apply({"params": partition.nested(params)}, jnp.asarray(x, jnp.float32)).tokens
    with torch.no_grad():
        tokens = theirs(seen).last_hidden_state.numpy()
    if name == "ast":  # whose patches stand in the order of frequency there
        patches = tokens[:, 2:].reshape(2, 2, 3, 16).swapaxes(1, 2).reshape(2, 6, 16)
        tokens = np.concatenate([tokens[:, :2], patches], axis=1)
    np.testing.assert_allclose(ours, tokens, atol=1e-5)


def test_a_run_begins_with_them_and_says_so(clip, tmp_path, capsys):
    config = runs.config(init_from=str(clip[0]), steps=2, eval__every=0, checkpoint__every=2)
    config.init_paths = ("image",)
    model = config.model.to_dict()
    model["image"] |= IMAGE
    set_group(config, "model", model)
    config.optimizer.freeze = ("image",)
    assert runs.train(config, tmp_path) is None
    stored = json.loads((tmp_path / "init_from.json").read_text())
    assert stored["source"] == f"{clip[0]} (OpenCLIP)" and stored["resampled"] == []
    names = [path for path in clip[1] if path.startswith(("image/", "image_head/"))]
    assert stored["taken"] == {path: path for path in names}
    assert set(stored["left"]) == clip[1].keys() - set(names)
    arrays = runs.arrays(tmp_path, 2)
    np.testing.assert_array_equal(arrays["['params']['image']['norm']['scale']"], clip[1]["image/norm/scale"])
    (tmp_path / "init_from.json").unlink()
    capsys.readouterr()
    config.steps, config.init_from = 3, "/nowhere"  # a run that goes on reads neither
    assert runs.train(config, tmp_path) is None
    assert "took" not in capsys.readouterr().out and not (tmp_path / "init_from.json").exists()


def test_data_that_a_part_was_not_trained_on_are_said():
    facts = {"class_names": ["cat", "dog"], "table": {"columns": [{"name": "age"}]}}
    taken = init_from.Taken(paths={"head/kernel": "head/kernel"}, facts=facts)
    (note,) = taken.notes_on_data(tasks.DatasetMetadata(class_names=("dog", "cat")))
    assert note.startswith("note: the head of init_from tells cat, dog, ... apart, and this run's data dog, cat, ...")
    assert not list(taken.notes_on_data(tasks.DatasetMetadata(class_names=("cat", "dog"))))
    columns = TableColumns(numbers=(), categories=(), texts=())
    (note,) = init_from.Taken(facts=facts).notes_on_data(tasks.DatasetMetadata(columns=columns))
    assert note.startswith("note: tables are standardised and numbered by this run's training data")
