"""Pictures of what a model saw."""

import numpy as np
import pytest

from mmjax.evaluation import pictures


def test_a_video_shows_its_middle_frame():
    video = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    assert (pictures.picture("video", video) == 2).all()
    shown = pictures.picture("video", video.astype(np.float32) - 7)
    assert shown.dtype == np.uint8 and shown.shape == (8, 8, 3)


def test_a_sound_is_a_spectrogram_with_time_from_left_to_right_and_low_sounds_below():
    spectrogram = np.zeros((6, 4), np.float32)
    spectrogram[5, 0] = 3.0
    shown = pictures.picture("audio", spectrogram)
    assert shown.shape == (4, 6, 3) and shown[3, 5].tolist() == [255] * 3 and shown.sum() == 3 * 255


def test_a_series_is_curves_and_a_table_bars():
    time = np.linspace(0, 1, 20)
    curves = pictures.picture("series", np.stack([time, -time], axis=1).astype(np.float32))
    dark = (curves.sum(axis=2) < 3 * 255).any(axis=0)
    assert dark.mean() > 0.9 and len(np.unique(curves.reshape(-1, 3), axis=0)) == 3
    bars = pictures.picture("table", np.float32([1, -1, np.nan, 0.5]))
    colored = bars.sum(axis=2) < 3 * 255
    assert colored[:40, :39].all() and not colored[:40, 40:79].any() and colored[60:, 40:79].all()


@pytest.mark.parametrize("values", [np.zeros((3, 2)), np.full(4, np.nan), np.zeros((1, 1))])
def test_what_has_no_range_is_a_picture_too(values):
    assert pictures.picture("series", values).dtype == np.uint8


def test_a_small_picture_is_of_the_first_input():
    inputs = {"image": np.zeros((400, 200, 3), np.uint8), "audio": np.zeros((4, 4), np.float32)}
    assert pictures.example_picture(inputs).shape == (160, 80, 3)


def test_a_small_picture_of_a_video_has_frames_from_all_over_it():
    video = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 10, 3), np.uint8)
    shown = pictures.example_picture({"video": video})
    assert shown.shape == (18, 22, 3) and (shown[8:10] == 255).all() and (shown[:, 10:12] == 255).all()
    corners = [shown[:8, :10], shown[:8, 12:], shown[10:, :10], shown[10:, 12:]]
    assert [np.unique(corner).tolist() for corner in corners] == [[1], [3], [5], [7]]
    assert pictures.example_picture({"video": video[:1]}).shape == (8, 10, 3)
    assert pictures.example_picture({"video": np.repeat(video, 20, axis=1)}).shape[0] == pictures.THUMBNAIL


@pytest.mark.parametrize("frames", [1024, 130, 50])
def test_a_small_picture_of_a_long_sound_is_not_a_line(frames):
    rng = np.random.default_rng(0)
    spectrogram = rng.random((frames, 32)).astype(np.float32)
    spectrogram[frames // 2 :] += 1
    shown = pictures.example_picture({"audio": spectrogram})
    assert shown.shape[1] <= 2 * shown.shape[0]
    halves = np.array_split(shown.astype(int), 2, axis=1)
    assert halves[1].mean() > halves[0].mean() + 50  # time still goes to the right
