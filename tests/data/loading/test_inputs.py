"""Arrays of a record's modalities: in training, in evaluation, and what stands for those that are missing."""

import dataclasses

import numpy as np
import pytest

from mmjax.data.audio.transform import AudioSpec
from mmjax.data.bad_example import BadExample
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.example_transforms import InputTransform
from mmjax.data.loading.inputs import Decoder, InputSpecs, ModalitySpec
from mmjax.data.loading.modality_transform import ModalityTransform
from mmjax.data.video.transform import VideoSpec
from tests.helpers.media import frames as video_frames
from tests.helpers.media import make_sound, make_video, tones

SPEC = ImageSpec(size=8)
IMAGE = np.zeros((8, 8, 3), np.uint8)


@dataclasses.dataclass(frozen=True)
class Halves:
    """Decodes bytes: a number each, halved; in training plus one."""

    shape: tuple = (2,)
    dtype: str = "float32"

    def prepare(self, entry, rng, *, rate=None, span=None):
        values = np.frombuffer(entry, np.uint8)[:2] / 2 + (rng is not None)
        return (values + (rate or 0) + (span or (0,))[0]).astype(np.float32)


SPECS = InputSpecs(SPEC, (ModalitySpec.decoded("audio", Halves()), ModalitySpec("series", (3,), nan_allowed=True)))


def record(**changes):
    modalities = {"audio": b"\x02\x04", "series": [1, np.nan, 2]} | changes
    return {"id": 5, "image": IMAGE, "modalities": modalities}


def rng():
    return np.random.default_rng(0)


def test_every_modality_is_an_array_under_its_name():
    assert isinstance(Halves(), Decoder) and SPECS.names == ("image", "audio", "series")
    arrays = InputTransform(SPECS)(record(), rng())
    assert list(arrays) == ["image", "audio", "series", "id"]
    assert arrays["audio"].tolist() == [2, 3] and SPECS.evaluate(record())["audio"].tolist() == [1, 2]
    np.testing.assert_array_equal(arrays["series"], np.float32([1, np.nan, 2]))
    shapes = {name: (array.shape, array.dtype) for name, array in arrays.items() if name != "id"}
    assert SPECS.batch_shapes() == shapes == {name: (x.shape, x.dtype) for name, x in SPECS.blank().items()}


def test_rates_and_spans_reach_the_decoder():
    example = record() | {"rates": {"audio": 100}, "spans": {"audio": (20, 30)}}
    assert SPECS.evaluate(example)["audio"].tolist() == [121, 122]


@pytest.mark.parametrize(
    ("changes", "reason", "message"),
    [
        ({"audio": None}, "no_input", "no audio"),
        ({"series": [1, 2]}, "other", r"'series' has shape \(2,\), not \(3,\)"),
        ({"series": [1, 2, np.inf]}, "other", "'series' holds a value that is not finite"),
        ({"series": b"abc"}, "other", "'series' is an encoded file"),
    ],
)
def test_what_cannot_be_used_says_why(changes, reason, message):
    with pytest.raises(BadExample, match=message) as caught:
        InputTransform(SPECS)(record(**changes), rng())
    assert caught.value.reason == reason


def test_what_is_missing_is_left_out_where_it_may_be():
    example = record(audio=None)
    del example["image"]
    assert list(SPECS.present(example, rng())) == list(SPECS.evaluate(example)) == ["series"]
    assert InputSpecs().evaluate(record()) == {} and InputSpecs.of(SPEC) == InputSpecs(SPEC)


def test_frames_of_images_have_their_boxes_and_blanks():
    specs = InputSpecs(dataclasses.replace(SPEC, frame=16))
    arrays = specs.train(record(), rng())
    assert arrays.keys() == specs.blank_training().keys() == {"image", "image_box"}
    assert specs.batch_shapes()["image"][0] == (16, 16, 3) and specs.blank()["image"].shape == (8, 8, 3)


@pytest.mark.parametrize(("frames", "stride"), [(4, 2), (3, 20), (2, 1)])
def test_the_crops_of_a_video_and_its_sound_are_of_the_same_time(frames, stride, monkeypatch):
    """Ten seconds of both: whichever crop is longer covers the shorter one, wherever they begin."""
    starts = []
    monkeypatch.setattr(
        AudioSpec, "_spectrogram", lambda spec, _, start: starts.append(start) or np.zeros(spec.shape, np.float32)
    )
    sound = AudioSpec(frames=100)
    video = VideoSpec(image=ImageSpec(size=8, crop_scale=(1.0, 1.0)), frames=frames, stride=stride)
    specs = InputSpecs(None, (ModalitySpec.decoded("audio", sound), ModalitySpec.decoded("video", video)))
    pixels = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None, None] * 2, (100, 8, 8, 3))
    record = {
        "id": 1,
        "modalities": {"audio": np.zeros(80_000, np.float32), "video": pixels},
        "rates": {"audio": 8000.0, "video": 10.0},
    }
    length, begins = sound.log_mel_spec.samples(100) / 16_000, []
    for seed in range(20):
        shown = specs.train(record, np.random.default_rng(seed))["video"][:, 0, 0, 0].astype(int) // 2 / 10
        start, end, heard = shown[0], shown[-1] + 0.1, starts[-1] / 16_000
        begins.append(start)
        slack = 0.11  # a frame
        if end - start > length:
            assert start - slack <= heard and heard + length <= end + slack
        else:
            assert heard - slack <= start and end <= heard + length + slack
    assert max(begins) - min(begins) > 0.5 * (10 - (end - start))
    # Alone, each draws for itself.
    alone = [
        InputSpecs(None, specs.others[:1]).train(record, np.random.default_rng(seed)) and starts[-1] for seed in (0, 1)
    ]
    assert alone[0] != alone[1]


MP4 = make_video(pixels=video_frames(4, (16, 16)))
SOUND_ALONE, MIXED = (
    make_sound("wav", tones(4000, 8000), rate=8000),
    make_video(pixels=video_frames(4, (16, 16)), sound="aac"),
)


@pytest.mark.parametrize(
    ("modalities", "names", "reason"),
    [
        ({"video": MIXED, "audio": MIXED}, {"audio", "video"}, ""),
        ({"video": MP4, "audio": MP4}, {"video"}, "no_track"),
        ({"video": MP4, "audio": SOUND_ALONE}, {"audio", "video"}, ""),
        ({"audio": SOUND_ALONE}, {"audio"}, "no_input"),
    ],
)
def test_a_silent_video_lacks_the_sound_where_a_model_can_do_without(modalities, names, reason):
    decoders = {"audio": AudioSpec(frames=20), "video": VideoSpec(image=ImageSpec(size=8), frames=2)}
    others = tuple(ModalitySpec.decoded(name, decoder) for name, decoder in decoders.items())
    example = {"id": 1, "label": 0, "modalities": modalities}
    lacking = ModalityTransform(InputSpecs(None, others, may_lack=True))
    arrays = lacking(example, rng())
    assert arrays["present"].tolist() == [name in names for name in ("audio", "video")]
    assert lacking.inputs.evaluate(example).keys() == names
    if reason:
        with pytest.raises(BadExample, match=reason):
            InputTransform(InputSpecs(None, others))(example, rng())


def test_what_is_damaged_is_no_missing_modality():
    decoders = {"audio": AudioSpec(frames=20), "video": VideoSpec(image=ImageSpec(size=8), frames=2)}
    others = tuple(ModalitySpec.decoded(name, decoder) for name, decoder in decoders.items())
    transform = ModalityTransform(InputSpecs(None, others, may_lack=True))
    for modalities, reason in [
        ({"video": MP4[:300], "audio": MP4[:300]}, "corrupt"),
        ({"video": MP4, "audio": MIXED[:300]}, "corrupt"),
        ({"video": MIXED, "audio": bytes(bytearray(MP4))}, "no_track"),  # a file of its own that has no sound
        ({}, "no_input: none of audio, video"),
    ]:
        with pytest.raises(BadExample, match=reason):
            transform({"id": 1, "label": 0, "modalities": modalities}, rng())
