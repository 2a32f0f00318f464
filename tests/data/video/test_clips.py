"""Which frames are seen: of time spans, at a rate, in training, evaluation and testing."""

import numpy as np
import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.video.clips import even_frames, timeline, training_frames, view_frames

EVEN = np.arange(50) / 25  # two seconds
UNEVEN = np.array([0.0, 0.1, 0.15, 1.0, 1.05, 1.9])


def test_all_frames_without_a_span():
    np.testing.assert_array_equal(timeline(EVEN, 2.0), np.arange(50))
    np.testing.assert_array_equal(timeline(EVEN + 0.3, 2.3), np.arange(50))


@pytest.mark.parametrize(
    ("span", "first", "last"),
    [
        ((0.0, 1.0), 0, 24),
        ((1.0, 2.0), 25, 49),
        ((0.5, 0.5001), 12, 12),
        ((1.9, 99.0), 47, 49),
        ((-3.0, 0.04), 0, 0),
    ],
)
def test_a_span_has_the_frames_that_are_shown_in_it(span, first, last):
    np.testing.assert_array_equal(timeline(EVEN, 2.0, span=span), np.arange(first, last + 1))


def test_a_rate_shows_what_is_shown_at_each_moment():
    np.testing.assert_array_equal(timeline(UNEVEN, 2.0, rate=4), [0, 2, 2, 2, 3, 4, 4, 4])
    np.testing.assert_array_equal(timeline(UNEVEN, 2.0, rate=4, span=(1.0, 2.0)), [3, 4, 4, 4])
    np.testing.assert_array_equal(timeline(EVEN, 2.0, rate=5), np.arange(0, 50, 5))
    np.testing.assert_array_equal(timeline(EVEN, 2.0, rate=50), np.repeat(np.arange(50), 2))
    assert len(timeline(EVEN, 2.0, rate=0.1)) == 1


@pytest.mark.parametrize("span", [(2.0, 3.0), (5.0, 6.0), (1.0, 1.0), (1.0, 0.5), (-2.0, 0.0), (float("nan"), 1.0)])
def test_spans_without_a_frame(span):
    with pytest.raises(BadExample, match="empty: nothing is shown"):
        timeline(EVEN, 2.0, span=span)


def test_training_begins_anywhere_that_fits():
    rng = np.random.default_rng(0)
    clips = [training_frames(20, 4, 5, rng) for _ in range(300)]
    assert {int(clip[0]) for clip in clips} == {0, 1, 2, 3, 4}
    assert all((np.diff(clip) == 5).all() and clip[-1] < 20 for clip in clips)


def test_training_over_the_video_takes_one_of_each_part():
    rng = np.random.default_rng(0)
    clips = np.stack([training_frames(12, 4, 0, rng) for _ in range(300)])
    assert (clips // 3 == np.arange(4)).all()
    assert all(set(column) == {3 * i, 3 * i + 1, 3 * i + 2} for i, column in enumerate(clips.T))
    assert (training_frames(3, 6, 0, rng) == [0, 0, 1, 1, 2, 2]).all()


def test_where_there_is_no_choice_nothing_is_drawn():
    for count, frames, stride in ((1, 4, 0), (1, 4, 2), (7, 4, 2), (5, 4, 2)):
        rng = np.random.default_rng(0)
        clip = training_frames(count, frames, stride, rng)
        assert rng.random() == np.random.default_rng(0).random()
        assert clip[0] == 0 and clip.max() < count
    assert training_frames(5, 4, 2, np.random.default_rng(0)).tolist() == [0, 2, 4, 4]


def test_evaluation_is_even():
    assert even_frames(8, 4).tolist() == [1, 3, 5, 7]
    assert even_frames(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert even_frames(100, 3).tolist() == [16, 50, 83]
    assert even_frames(2, 4).tolist() == [0, 0, 1, 1]
    assert even_frames(1, 3).tolist() == [0, 0, 0]


def test_clips_of_testing():
    assert view_frames(20, 4, 2, 3).tolist() == [[0, 2, 4, 6], [6, 8, 10, 12], [13, 15, 17, 19]]
    assert view_frames(20, 4, 2, 1).tolist() == [[6, 8, 10, 12]]
    assert view_frames(4, 3, 5, 2).tolist() == [[0, 3, 3], [0, 3, 3]]
    assert view_frames(12, 3, 0, 2).tolist() == [[1, 5, 9], [3, 7, 11]]
    assert view_frames(12, 4, 0, 1).tolist() == [even_frames(12, 4).tolist()]
