"""Clips as models see them: like images, alike in all frames, functions of the generator."""

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.image.crops import train_image
from mmjax.data.image.transforms import ImageSpec, eval_image
from mmjax.data.loading.order import example_rng
from mmjax.data.video.transform import VideoSpec
from mmjax.errors import UserError
from tests.helpers.media import frames, make_video, pyav_frames, turned

AUGMENTED = ImageSpec(
    size=24, flip=True, crop_scale=(0.3, 1.0), color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale=0.3, randaugment=(2, 9)
)
IMAGE = ImageSpec(size=24)
PIXELS = frames()
MP4 = make_video()


@pytest.mark.parametrize("spec", [AUGMENTED, IMAGE, ImageSpec(size=24, resize="squash", train_resize="squash")])
def test_a_video_of_one_frame_is_its_image(spec):
    """The same pixels, and the generator is left in the same state."""
    for seed in range(10):
        rng, image_rng = example_rng(0, seed), example_rng(0, seed)
        clip = VideoSpec(image=spec, frames=3, stride=seed % 3).prepare(PIXELS[:1], rng)
        image = train_image(PIXELS[0], spec, image_rng)
        assert clip.shape == (3, 24, 24, 3) and clip.dtype == np.uint8
        np.testing.assert_array_equal(clip, np.stack([image] * 3))
        assert rng.random() == image_rng.random()
    np.testing.assert_array_equal(
        VideoSpec(image=spec, frames=1).prepare(PIXELS[:1], None)[0], eval_image(PIXELS[0], spec)
    )


def test_frames_are_treated_alike():
    """Of a video of one picture all frames are equal, whatever is drawn; those of two examples are not."""
    still = np.repeat(PIXELS[:1], 9, axis=0)
    spec = VideoSpec(image=AUGMENTED, frames=4, stride=1)
    clips = [spec.prepare(still, example_rng(1, position)) for position in range(8)]
    assert all((clip == clip[0]).all() for clip in clips)
    assert len({clip.tobytes() for clip in clips}) == 8


def test_training_is_a_function_of_the_generator():
    spec = VideoSpec(image=AUGMENTED, frames=4, stride=3)
    for entry in (PIXELS, MP4):
        clips = [spec.prepare(entry, example_rng(0, position)) for position in (3, 3, 4)]
        np.testing.assert_array_equal(clips[0], clips[1])
        assert (clips[0] != clips[2]).any()


def test_encoded_and_decoded_are_the_same():
    decoded = pyav_frames(MP4)
    for spec in (VideoSpec(image=IMAGE, frames=5), VideoSpec(image=IMAGE, frames=4, stride=2, rate=10)):
        for span in (None, (0.2, 0.7)):
            for rng in (None, 5):
                generators = [rng and np.random.default_rng(rng) for _ in range(2)]
                np.testing.assert_array_equal(
                    spec.prepare(MP4, generators[0], span=span),
                    spec.prepare(decoded, generators[1], rate=25, span=span),
                )


def test_evaluation_shows_the_middle_of_evenly_spread_frames():
    expected = [eval_image(picture, IMAGE) for picture in pyav_frames(MP4)[[2, 6, 10, 14, 18, 22]]]
    np.testing.assert_array_equal(VideoSpec(image=IMAGE, frames=6, stride=1).prepare(MP4, None), expected)


def test_turned_videos_are_upright():
    tall = turned(MP4, 90)
    expected = [eval_image(np.ascontiguousarray(np.rot90(picture, -1)), IMAGE) for picture in pyav_frames(MP4)[[6, 18]]]
    np.testing.assert_array_equal(VideoSpec(image=IMAGE, frames=2).prepare(tall, None), expected)
    # The crop of training is that of the upright picture; the pixels are resampled before they are turned.
    spec = VideoSpec(image=ImageSpec(size=24, crop_scale=(0.3, 1.0), flip=True), frames=2)
    upright = np.ascontiguousarray(np.rot90(pyav_frames(MP4), -1, axes=(1, 2)))
    for seed in range(6):
        clips = [spec.prepare(entry, np.random.default_rng(seed)).astype(int) for entry in (tall, upright)]
        assert np.abs(clips[0] - clips[1]).mean() < 0.2


def test_views_are_clips_in_crops():
    spec = VideoSpec(image=IMAGE, frames=4, stride=2, clips=2, crops=3)
    views = spec.views(MP4)
    assert views.shape == (6, *spec.shape) and views.dtype == spec.dtype
    decoded = pyav_frames(MP4)
    for clip, start in ((0, 0), (1, 17)):
        pixels = decoded[start : start + 7 : 2]
        for crop, left in ((0, 0), (1, None), (2, 64 - 48)):
            # A square of the full height is what the crop shows.
            expected = [
                eval_image(np.ascontiguousarray(x if left is None else x[:, left : left + 48]), IMAGE) for x in pixels
            ]
            difference = views[3 * clip + crop].astype(int) - np.stack(expected)
            # Resized before it is cropped, the filter sees beyond the crop's edge.
            assert np.abs(difference[:, :, 2:-2]).max() <= (0 if left is None else 1)
    one = VideoSpec(image=IMAGE, frames=4, stride=2)
    np.testing.assert_array_equal(one.views(MP4)[0], [eval_image(x, IMAGE) for x in decoded[8:15:2]])


def test_views_of_a_tall_video_and_of_a_square_one():
    spec = VideoSpec(image=IMAGE, frames=2, crops=3)
    tall, square = PIXELS.swapaxes(1, 2), PIXELS[:, :, :48]
    # Pillow rounds after each of its two passes.
    assert np.abs(spec.views(tall) - spec.views(PIXELS).swapaxes(2, 3).astype(int)).mean() < 0.2
    views = spec.views(square)
    assert (views == views[1]).all()


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (PIXELS[0], "corrupt"),
        (PIXELS.astype(np.float32), "corrupt"),
        (np.zeros((3, 8, 8, 4), np.uint8), "corrupt"),
        (PIXELS[:0], "empty"),
        (b"", "empty"),
        (b"GIF89a", "corrupt"),
    ],
)
def test_entries_that_cannot_be_used(entry, reason):
    with pytest.raises(BadExample) as caught:
        VideoSpec(image=IMAGE).prepare(entry, None)
    assert caught.value.reason == reason and "\n" not in str(caught.value)


def test_frames_without_a_rate_have_no_seconds():
    with pytest.raises(UserError, match="rates={'video': frames a second}"):
        VideoSpec(image=IMAGE).prepare(PIXELS, None, span=(0, 1))
    with pytest.raises(UserError, match="data.video.rate"):
        VideoSpec(image=IMAGE, rate=5.0).prepare(PIXELS, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(frames=0), "data.video.frames=0: give 1 or more"),
        (dict(stride=-1), "data.video.stride=-1: give 0 or more"),
        (dict(rate=float("inf")), "data.video.rate=inf: give frames a second"),
        (dict(crops=2), "eval.video.crops=2: give 1 .* or 3"),
        (dict(crops=3, image=ImageSpec(size=8, resize="squash")), "eval.video.crops=3 goes with data.resize='crop'"),
        (dict(image=ImageSpec(size=8, frame=32)), "data.resize_on='host'"),
    ],
)
def test_mistakes_in_a_spec(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        VideoSpec(**{"image": IMAGE} | fields)
    assert "\n" not in str(caught.value)
