"""preprocessor_config.json of towers: what it says by fields of a run, and what contradicts the tower."""

import json

import numpy as np
import pytest

from mmjax.config import base_config, parse
from mmjax.data.image.transforms import MEAN_STD
from mmjax.errors import UserError
from mmjax.interop.media_preparation import normalisation, read_preparation
from mmjax.training import init_source
from tests.interop.test_media_towers import write

VIDEO = {"video": {"image_size": 8, "frames": 4}}
AST, WHISPER = ({"audio": {"frames": 12, "mel_bins": bins}} for bins in (8, 6))
VIVIT = dict(do_rescale=True, rescale_factor=1 / 127.5, offset=True, do_normalize=True, image_mean=[0.5] * 3)
VIVIT |= dict(image_std=[0.5] * 3, crop_size={"height": 8, "width": 8}, size={"shortest_edge": 9})
IMAGENET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], crop_size={"height": 8, "width": 8})
EXTRACTOR = dict(feature_size=1, num_mel_bins=8, max_length=12, sampling_rate=16000, do_normalize=True)
EXTRACTOR |= dict(mean=-4.2677393, std=4.5689974)
WHISPERS = dict(feature_size=6, sampling_rate=16000, n_fft=400, hop_length=160, nb_max_frames=12)


def read(folder, kind, settings, fields, name="preprocessor_config.json"):
    if fields is not None:
        (folder / name).write_text(json.dumps(fields))
    return read_preparation(folder, kind, settings)


@pytest.mark.parametrize(
    ("kind", "settings", "fields", "expected"),
    [
        ("vivit", VIDEO, None, {}),
        ("vivit", VIDEO, VIVIT, {"data.mean_std": "vivit"}),
        ("vivit", VIDEO, VIVIT | dict(offset=False, rescale_factor=1 / 255), {"data.mean_std": "siglip"}),
        ("videomae", VIDEO, IMAGENET, {"data.mean_std": "imagenet"}),
        ("videomae", VIDEO, IMAGENET | dict(do_normalize=False), {"data.mean_std": "none"}),
        ("videomae", VIDEO, IMAGENET | dict(image_mean=0.0, image_std=0.5), None),
        ("audio-spectrogram-transformer", AST, None, {"data.audio.preset": "ast"}),
        (
            "audio-spectrogram-transformer",
            AST,
            EXTRACTOR,
            {"data.audio.preset": "ast", "data.audio.sample_rate": 16000},
        ),
        ("whisper", WHISPER, WHISPERS, {"data.audio.preset": "whisper", "data.audio.sample_rate": 16000}),
        ("whisper", WHISPER, dict(WHISPERS, sampling_rate=8000, hop_length=80), None),
    ],
)
def test_files_are_fields_of_a_run(tmp_path, caplog, kind, settings, fields, expected):
    result = read(tmp_path, kind, settings, fields)
    if expected is None and "video" in settings:
        assert result == {"data.mean_std": "mean [0.0, 0.0, 0.0] and deviation [0.5, 0.5, 0.5]"}
    elif expected is None:
        assert result["data.audio.sample_rate"] == 8000
    else:
        assert result == expected
    assert not caplog.text


def test_vivits_pixels_are_those_of_its_processor():
    """As transformers' code has it: times the factor, minus 1, minus the mean, by the deviation."""
    pixels = np.arange(256)[:, None] * np.ones(3)
    theirs = (pixels / 127.5 - 1 - np.array(VIVIT["image_mean"])) / np.array(VIVIT["image_std"])
    mean, std = normalisation(VIVIT)
    np.testing.assert_allclose((pixels / 255 - mean) / std, theirs, atol=1e-12)
    np.testing.assert_allclose([mean, std], MEAN_STD["vivit"], atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "settings", "fields", "message"),
    [
        ("vivit", VIDEO, VIVIT | dict(crop_size=9), "crops of 9, but config.json has image_size=8; correct one"),
        (
            "audio-spectrogram-transformer",
            AST,
            EXTRACTOR | dict(num_mel_bins=9),
            "num_mel_bins=9, but .* num_mel_bins=8",
        ),
        ("audio-spectrogram-transformer", AST, EXTRACTOR | dict(max_length=9), "max_length=9, but .* max_length=12"),
        ("whisper", WHISPER, WHISPERS | dict(feature_size=80), "feature_size=80, but config.json has num_mel_bins=6"),
        ("whisper", WHISPER, WHISPERS | dict(nb_max_frames=3000), "nb_max_frames=3000, but .* 2 . max_source_pos"),
    ],
)
def test_contradictions_are_refused(tmp_path, kind, settings, fields, message):
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, kind, settings, fields)
    assert "preprocessor_config.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "settings", "fields", "message"),
    [
        (
            "audio-spectrogram-transformer",
            AST,
            EXTRACTOR | dict(mean=-6.8),
            "mean=-6.8, and data.audio.preset='ast' has",
        ),
        (
            "audio-spectrogram-transformer",
            AST,
            EXTRACTOR | dict(do_normalize=False),
            "do_normalize=False, and data.aud",
        ),
        (
            "whisper",
            WHISPER,
            WHISPERS | dict(n_fft=512),
            "n_fft=512, and data.audio.preset='whisper' has 400: its spec",
        ),
    ],
)
def test_what_no_field_has_is_told(tmp_path, caplog, kind, settings, fields, message):
    read(tmp_path, kind, settings, fields)
    assert message in caplog.text


def test_a_run_that_starts_from_a_tower_has_its_preparation(tmp_path):
    config = base_config("tiny")
    config.init_from = str(tmp_path)
    write(tmp_path, "vivit")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(VIVIT))
    assert init_source.open_source(parse(config)).data == {"data.mean_std": "vivit"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(VIVIT | dict(crop_size=9)))
    with pytest.raises(UserError, match="init_from: .*preprocessor_config.json: crops of 9"):
        init_source.open_source(parse(config))


@pytest.mark.full
def test_extractors_as_transformers_writes_them(tmp_path, caplog):
    import transformers

    transformers.ASTFeatureExtractor(num_mel_bins=8, max_length=12).save_pretrained(tmp_path / "ast")
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    extractor.save_pretrained(tmp_path / "whisper")
    for kind, settings in (
        ("audio-spectrogram-transformer", AST),
        ("whisper", {"audio": {"frames": 3000, "mel_bins": 80}}),
    ):
        preset = "whisper" if kind == "whisper" else "ast"
        expected = {"data.audio.preset": preset, "data.audio.sample_rate": 16000}
        assert read_preparation(tmp_path / preset, kind, settings) == expected
    assert "preset" not in caplog.text
