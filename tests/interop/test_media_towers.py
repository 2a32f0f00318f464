"""Towers of video and sound in Hugging Face's format: written and read again, and mistakes in one line."""

import json

import numpy as np
import pytest
import safetensors.numpy

from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint, media_towers

LAYERS = dict(width=8, depth=2, heads=2, mlp_dim=12)
VIDEO = dict(kind="video", frames=4, image_size=8, patch_size=4, **LAYERS)
WHISPER = dict(
    audio=dict(kind="whisper", frames=12, mel_bins=6, **LAYERS),
    text=dict(vocab_size=11, context_length=7, cross_every=1, key_bias=False, head="tied", eos_id=2, **LAYERS),
)
KINDS = {
    "vivit": {"video": VIDEO | dict(positions="joint", activation="gelu_tanh")},
    "videomae": {"video": VIDEO | dict(positions="sincos", class_token=False, key_bias=False)},
    "audio-spectrogram-transformer": {
        "audio": dict(
            kind="audio", frames=12, mel_bins=8, patch_size=(4, 4), stride=(3, 2), distillation_token=True, **LAYERS
        )
    },
    "whisper": WHISPER,
}
CLASSES = 5


def make(kind, **changes):
    """Settings, with fields of the first slot changed, and random parameters, of a classifier too but for Whisper."""
    settings = {slot: dict(fields) for slot, fields in KINDS[kind].items()}
    next(iter(settings.values())).update(changes)
    shapes = media_towers.param_shapes(settings)
    if kind != "whisper":
        shapes |= {"head/kernel": (8, CLASSES), "head/bias": (CLASSES,)}
        if kind.startswith("audio") or not settings.get("video", {}).get("final_norm", True):
            shapes |= {"head_norm/scale": (8,), "head_norm/bias": (8,)}
    rng = np.random.default_rng(0)
    return settings, {path: rng.standard_normal(shape).astype(np.float32) for path, shape in shapes.items()}


def write(folder, kind, config=None, **changes):
    settings, params = make(kind, **changes)
    media_towers.write_tower(folder, settings, params, config)
    return settings, params


@pytest.mark.parametrize(
    "kind, changes",
    [
        *((kind, {}) for kind in KINDS),
        ("videomae", dict(final_norm=False)),
        ("audio-spectrogram-transformer", dict(stride=None)),
    ],
)
@pytest.mark.parametrize("headed", [True, pytest.param(False, marks=pytest.mark.full)])
def test_round_trips_bit_for_bit(kind, changes, headed, tmp_path):
    settings, params = make(kind, **changes)
    if not headed:
        params = {path: x for path, x in params.items() if not path.startswith("head")}
    media_towers.write_tower(tmp_path / "a", settings, params)
    opened = media_towers.open_tower(tmp_path / "a")
    assert (opened.format, opened.unread) == (kind, ())
    for slot, fields in settings.items():
        differing = {name for name, value in fields.items() if opened.settings[slot][name] != value}
        assert differing <= {"stride"}  # None is the patch's own size
    again = opened.read(lambda _, array: array)
    assert again.keys() == params.keys()
    for path, array in params.items():
        np.testing.assert_array_equal(again[path], array, err_msg=path)
    # And from there: the same files.
    media_towers.write_tower(tmp_path / "b", opened.settings, again, opened.config)
    first, second = (safetensors.numpy.load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in "ab"]
    assert configs[0] == configs[1]
    assert ("id2label" in configs[0]) == (headed and kind != "whisper")


def test_labels_and_other_fields_of_a_config_stay(tmp_path):
    labels = {str(index): f"class {index}" for index in range(CLASSES)}
    write(tmp_path, "vivit", dict(id2label=labels, initializer_range=0.5, num_frames=99))
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["id2label"], config["initializer_range"], config["num_frames"]) == (labels, 0.5, 4)


def test_patches_of_spectrograms_are_turned(tmp_path):
    """There frequencies run along the first axis of windows, and time fastest among positions."""
    _, params = write(tmp_path, "audio-spectrogram-transformer")
    theirs = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    name = "audio_spectrogram_transformer.embeddings."
    positions, ours = theirs[name + "position_embeddings"][0], params["audio/position_embedding"]
    np.testing.assert_array_equal(positions[:2], ours[:2])
    for time in range(3):
        for bin in range(3):
            np.testing.assert_array_equal(positions[2 + 3 * bin + time], ours[2 + 3 * time + bin])
    kernel = theirs[name + "patch_embeddings.projection.weight"]
    np.testing.assert_array_equal(kernel[7, 0, 1, 2], params["audio/patch_embed/kernel"][2, 1, 0, 7])


@pytest.mark.parametrize("kind, name", [("vivit", "ViViT"), ("whisper", "Whisper")])
def test_where_two_towers_are_wanted_it_is_named(kind, name, tmp_path):
    write(tmp_path, kind)
    with pytest.raises(
        UserError, match=f"Hugging Face's {name}, which has no image and text tower; .*media_towers.open_tower reads it"
    ):
        foreign_checkpoint.open_checkpoint(tmp_path)


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value != "absent"}))


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        (
            "vivit",
            dict(model_type="timesformer"),
            "model_type='timesformer' is not known; choose one of: vivit, videomae",
        ),
        ("vivit", dict(num_channels=1), "num_channels=1 is not read; mmjax has 3"),
        ("vivit", dict(qkv_bias=False), "qkv_bias=False is not read; mmjax has True"),
        ("vivit", dict(image_size=[8, 16]), r"image_size=\[8, 16\] is not one number; mmjax takes squares"),
        ("vivit", dict(tubelet_size=2), "tubelet_size=2: wants a value such as"),
        ("vivit", dict(hidden_act="mish"), "activation='mish' is not known"),
        ("vivit", dict(hidden_size="8"), "hidden_size='8': wants a value such as 768"),
        ("vivit", dict(num_hidden_layers=10**6), "num_hidden_layers=1000000 is out of range"),
        ("vivit", dict(num_attention_heads=3), "3 attention heads do not divide its width of 8"),
        ("vivit", dict(layer_norm_eps=2.0), "layer_norm_eps=2.0 must be greater than 0 and less than 1"),
        ("videomae", dict(image_size=4 * 10**6), "make a table of positions of 4000000000000 x 8, which no model has"),
        ("whisper", dict(max_source_positions=10**7), r"config makes it \[10000000, 8\]"),
        ("vivit", dict(num_frames=5), "frames=5 does not divide by tubelet_frames=2"),
        ("videomae", dict(qv_bias=False), "qv_bias=False is not read"),
        ("videomae", dict(tubelet_size=[2, 2]), r"tubelet_size=\[2, 2\]: wants a value such as 2"),
        ("videomae", dict(use_mean_pooling=1), "use_mean_pooling=1: wants a value such as True"),
        ("audio-spectrogram-transformer", dict(num_mel_bins=3), "3 is less than a patch of 4"),
        ("audio-spectrogram-transformer", dict(num_mel_bins=9, frequency_stride=1), "config makes it"),
        ("whisper", dict(scale_embedding=True), "scale_embedding=True is not read"),
        ("whisper", dict(decoder_layers=3), "decoder.layers.2.* is missing"),
        ("whisper", dict(decoder_layers=1), "decoder.layers.1.* is unknown"),
        ("whisper", dict(tie_word_embeddings=False), "proj_out.weight is missing"),
    ],
)
def test_a_config_that_is_not_read(kind, changes, message, tmp_path):
    write(tmp_path, kind)
    change_config(tmp_path, **changes)
    with pytest.raises(UserError, match=message) as raised:
        media_towers.open_tower(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path)


def test_parameters_that_are_missing_unknown_or_misshapen(tmp_path):
    write(tmp_path, "vivit")
    norm, label = "vivit.layernorm.weight", f"{tmp_path / 'model.safetensors'}: "
    cases = [
        (lambda x: x.pop(norm), f"the parameter {norm} is missing"),
        (lambda x: x.update({norm: np.zeros(9, np.float32)}), f"{norm} has shape [9]"),
        (lambda x: x.update({norm: np.zeros(8, np.float32), "gate": x[norm]}), "the parameter gate is unknown"),
        (lambda x: (x.pop("gate"), x.pop("classifier.bias")), "the parameter classifier.bias is missing"),
    ]
    for change, message in cases:
        change_tensors(tmp_path, change)
        with pytest.raises(UserError) as raised:
            media_towers.open_tower(tmp_path)
        assert str(raised.value).startswith(label + message)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="no config.json lies beside it"):
        media_towers.open_tower(tmp_path)


def test_a_copy_of_the_token_table_is_left_out(tmp_path):
    """Older files of Whisper have one; where the config says that the head is another matrix, it is read."""
    _, params = write(tmp_path, "whisper")
    head = np.ones((11, 8), np.float32)
    change_tensors(tmp_path, lambda x: x.update({"proj_out.weight": head}))
    opened = media_towers.open_tower(tmp_path)
    assert opened.unread == ("proj_out.weight",) and opened.shapes.keys() == params.keys()
    change_config(tmp_path, tie_word_embeddings=False)
    opened = media_towers.open_tower(tmp_path)
    assert opened.unread == () and opened.settings["text"]["head"] == "linear"
    (read,) = opened.read(lambda _, array: array, lambda path: path == "text/head/kernel").values()
    np.testing.assert_array_equal(read, head.T)


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("vivit", dict(positions="factorised"), "video.positions='factorised': Hugging Face's ViViT has 'joint' there"),
        ("videomae", dict(key_bias=True), "video.key_bias=True: Hugging Face's VideoMAE has False there"),
        ("whisper", dict(class_token=True), "audio.class_token=True: Hugging Face's Whisper has False there"),
        ("audio-spectrogram-transformer", dict(patch_size=(4, 3)), "is not one number; mmjax takes squares"),
    ],
)
def test_a_tower_that_has_no_format(kind, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write(tmp_path / "new", kind, **changes)
    assert not (tmp_path / "new").exists()


def test_parameters_that_cannot_be_written(tmp_path):
    settings, params = make("vivit")
    norm = "video/norm/scale"
    for changed, message in [
        ({path: x for path, x in params.items() if path != norm}, f"the parameter {norm} is missing"),
        (params | {norm: params["head/bias"]}, f"{norm} has shape \\[5\\]; by the settings it has shape \\[8\\]"),
        (params | {"gate": params[norm]}, "Hugging Face's ViViT has no name for the parameter gate"),
        (params | {"head_norm/scale": params[norm]}, "head_norm/scale: a VivitForVideoClassification .* has none"),
    ]:
        with pytest.raises(UserError, match=message):
            media_towers.write_tower(tmp_path / "new", settings, changed)
    with pytest.raises(UserError, match="image of kind 'image': not a model that has a format there"):
        media_towers.write_tower(tmp_path / "new", {"image": dict(kind="image")}, {})
    assert not (tmp_path / "new").exists()


def test_the_tokens_that_whisper_suppresses(tmp_path):
    """Those of generation_config.json; without it of config.json, as older files have them."""
    write(tmp_path, "whisper", {"suppress_tokens": [1, 3], "begin_suppress_tokens": None})
    tower = media_towers.open_tower(tmp_path)
    assert media_towers.suppressed_tokens(tower) == {"suppress_tokens": (1, 3), "begin_suppress_tokens": ()}
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps({"begin_suppress_tokens": [2, 4], "suppress_tokens": []}))
    assert media_towers.suppressed_tokens(tower) == {"suppress_tokens": (), "begin_suppress_tokens": (2, 4)}
    for wrong in ([11], [-1], ["a"], 3, [True]):
        file.write_text(json.dumps({"suppress_tokens": wrong}))
        with pytest.raises(
            UserError, match="generation_config.json: suppress_tokens=.* is no list of token ids below 11"
        ):
            media_towers.suppressed_tokens(tower)
    write(tmp_path / "video", "vivit")
    assert media_towers.suppressed_tokens(media_towers.open_tower(tmp_path / "video")) == {}
