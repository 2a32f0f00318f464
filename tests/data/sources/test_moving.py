import collections
import re
import subprocess
import sys

import numpy as np
import pytest

from mmjax.data.mixture import open_source
from mmjax.data.record import record_mistake, stable_id
from mmjax.data.source_protocols import HasAnswers, HasModalities, Source
from mmjax.data.sources import moving
from mmjax.data.sources.actions import CLASS_NAMES
from mmjax.data.sources.moving import DIRECTIONS, PITCHES, SPEEDS, Moving
from mmjax.data.sources.moving_questions import TYPES
from mmjax.data.sources.shapes import COLORS
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError
from mmjax.metrics.vqa_answers import answer_index, soft_scores


@pytest.fixture(scope="module")
def train_sample():
    source = Moving("train")
    return [source[i] for i in range(200)]


@pytest.fixture(scope="module")
def held_out():
    source = Moving("test")
    return [source[i] for i in range(100)]


def track(video, color):
    """The mean (x, y) of the pixels of a colour, by frame."""
    pixels = video.astype(np.float32)
    distance = np.stack([((pixels - np.array(rgb)) ** 2).sum(-1) for rgb in COLORS.values()])
    is_near = (distance.argmin(0) == tuple(COLORS).index(color)) & (distance.min(0) < 50**2)
    pixels_by_frame = [np.argwhere(frame)[:, ::-1] for frame in is_near]
    return np.array([positions.mean(0) if len(positions) else (np.nan, np.nan) for positions in pixels_by_frame])


def seen(centres):
    """Direction, speed, and whether an object bounces, from its track."""
    steps = np.diff(centres, axis=0)
    first, axis = steps[:2].sum(0), np.nanargmax(np.nansum(abs(steps), axis=0))
    direction = next(name for name, d in DIRECTIONS.items() if d[axis] and d[axis] == np.sign(first[axis]))
    lengths = abs(steps[:, axis])
    threshold = (SPEEDS["slow"] + SPEEDS["fast"]) / 2 / len(centres)
    bounces = np.sign(steps[0, axis]) * np.sign(steps[-1, axis]) < 0
    return direction, "fast" if np.nanmedian(lengths) > threshold else "slow", bounces


def heard(audio, rate):
    """The clicks in the order of time, (second, shape), and what the walls are made of, from the samples.

    A click is where the energy rises, its pitch the strongest of those that were not there before, and the material
    follows from how much is left of it 40 ms later.
    """
    width, short = rate // 100, int(0.06 * rate)
    energy = np.square(audio).reshape(-1, width).sum(1)
    rises = [i for i in range(2, len(energy)) if energy[i] > max(1.3 * energy[i - 2 : i].max(), 0.08 * energy.max())]
    begins = [i * width for i, before in zip(rises, [-9, *rises], strict=False) if i - before > 3]
    clicks, rests = [], []
    frequency = np.fft.rfftfreq(8 * short, 1 / rate)

    def spectrum(part):
        return abs(np.fft.rfft(part * np.hanning(len(part)), 8 * short))

    for begin in begins:
        risen = spectrum(audio[begin : begin + short]) - spectrum(audio[begin - short : begin])
        strength = {shape: risen[abs(frequency / pitch - 1) < 0.03].max() for shape, pitch in PITCHES.items()}
        clicks.append((begin / rate, max(strength, key=strength.__getitem__)))
        # The window in which a click begins may hold little of it.
        rests.append(energy[begin // width + 5] / energy[begin // width + 1])
    rest = max(rests) if rests else 0
    return clicks, "wood" if rest < 0.1 else "glass" if rest < 0.4 else "metal"


def test_what_is_said_is_seen_in_the_video(train_sample, held_out):
    """Tracks of coloured pixels give back directions, speeds and bounces."""
    right = []
    for record in [*train_sample[:50], *held_out[:30]]:
        for item in record["annotation"]["objects"]:
            centres = track(record["modalities"]["video"], item["color"])
            right.append(seen(centres) == (item["direction"], item["speed"], item["bounces"]))
            is_near = abs(centres - np.stack([item["x"], item["y"]], axis=1)).max(1) < 1.5
            assert is_near.sum() >= 5  # all, but where the other one hides it
    assert np.mean(right) > 0.97


def test_what_is_said_is_heard_in_the_sound(train_sample):
    """Clicks, their pitches and what rings are found by templates."""
    right = []
    for record in train_sample[:100]:
        clicks, material = heard(record["modalities"]["audio"], 8000)
        bouncing = [item for item in record["annotation"]["objects"] if item["bounces"]]
        expected = sorted((item["bounce_time"], item["shape"]) for item in bouncing)
        right.append(
            [shape for _, shape in clicks] == [shape for _, shape in expected]
            and all(abs(a - b) < 0.02 for (a, _), (b, _) in zip(clicks, expected, strict=True))
            and material == record["annotation"]["walls"]
        )
    assert np.mean(right) > 0.9


def digest(source, count):
    """A number of all that records hold."""
    records = [source[i] for i in range(count)]
    arrays = b"".join(value.tobytes() for r in records for value in r["modalities"].values())
    return stable_id(arrays.hex(), *(repr({k: v for k, v in r.items() if k != "modalities"}) for r in records))


def test_a_record_is_a_pure_function_of_its_index(train_sample):
    source = Moving()
    assert isinstance(source, Source) and isinstance(source, HasAnswers) and isinstance(source, HasModalities)
    assert (len(source), len(Moving("test"))) == (1_000_000, 1_000)
    for i in (199, 7, 0):
        record, same = source[i], train_sample[i]
        assert record["captions"] == same["captions"] and record["annotation"] == same["annotation"]
        assert all(np.array_equal(record["modalities"][name], same["modalities"][name]) for name in ("video", "audio"))
    assert source[-1]["id"] == source[999_999]["id"]
    with pytest.raises(IndexError):
        source[1_000_000]


def test_another_process_makes_the_same_records():
    code = (
        "from mmjax.data.sources.moving import Moving\n"
        "from tests.data.sources.test_moving import digest\n"
        "import sys; sys.stdout.write(f\"{digest(Moving('train'), 5)} {digest(Moving('test', length=9), 5)}\")"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == f"{digest(Moving('train'), 5)} {digest(Moving('test', length=20), 5)}"


def test_records_have_their_form(train_sample, held_out):
    for record in (train_sample[0], held_out[0]):
        assert record_mistake(record) == ""
        video, audio = record["modalities"]["video"], record["modalities"]["audio"]
        assert (video.shape, video.dtype, audio.shape, audio.dtype) == ((8, 32, 32, 3), np.uint8, (8000,), np.float32)
        assert record["rates"] == {"video": 8.0, "audio": 8000.0}
    assert 0.1 < max(abs(record["modalities"]["audio"]).max() for record in train_sample) < 1
    large = Moving("test", frames=16, size=64, sample_rate=16000, length=2)[1]
    assert large["modalities"]["video"].shape == (16, 64, 64, 3) == Moving(frames=16, size=64).modality_shapes["video"]
    assert large["modalities"]["audio"].shape == (16000,) and large["rates"] == {"video": 16.0, "audio": 16000.0}
    assert large["captions"] == held_out[1]["captions"]  # of the same scene
    item = large["annotation"]["objects"][0]
    assert abs(track(large["modalities"]["video"], item["color"])[0] - [item["x"][0], item["y"][0]]).max() < 1.5


def test_the_first_records_do_not_change(train_sample):
    # A change here changes every result on moving and actions: deliberately, and noted, or not at all.
    assert [(r["captions"][0], r["question"], r["answers"][0]) for r in train_sample[:3]] == FIRST
    assert [r["annotation"]["transcript"] for r in train_sample[:3]] == TRANSCRIPTS


FIRST = [
    (
        "a slow red cross going up and back with a fast orange ring going up and back",
        "what colour is the ring?",
        "orange",
    ),
    (
        "an orange square moves up slowly and bounces while a purple circle moves left fast and bounces",
        "what shape is the purple object?",
        "circle",
    ),
    (
        "a slow red circle going up with a fast purple triangle going left and back",
        "what are the walls made of?",
        "metal",
    ),
]
TRANSCRIPTS = ["high click shrill click on wood", "low click deep click on glass", "middle click on metal"]


def test_there_are_enough_descriptions_and_one_in_twenty_is_held_out():
    scenes = list(moving.descriptions())
    texts = {moving.description(scene) for scene in scenes}
    colors, kinds = len(COLORS), len(PITCHES) * len(DIRECTIONS) * len(SPEEDS)
    assert len(texts) == len(scenes) == colors * (colors - 1) // 2 * kinds**2 * 3 == 134_400
    some = scenes[::29]
    assert abs(np.mean([moving.is_held_out(scene) for scene in some]) - 0.05) < 4 * (0.05 * 0.95 / len(some)) ** 0.5
    # So many draws of so many that are as likely differ so often; motions are not: crosswise has more directions.
    rng = np.random.default_rng(0)
    drawn = {moving.description(moving.draw_scene(rng)) for _ in range(2000)}
    assert drawn <= texts and len(drawn) > 1_950


def test_held_out_descriptions_are_never_trained_on(train_sample, held_out):
    scenes = moving._test_scenes(1000)
    assert len({moving.description(scene) for scene in scenes}) == 1000 and all(map(moving.is_held_out, scenes))
    assert {r["id"] for r in held_out} == {moving.scene_id(scene) for scene in scenes[: len(held_out)]}
    rng = np.random.default_rng(1)
    ids = {r["id"] for r in train_sample}
    assert all(number % moving.HELD_OUT for number in ids)
    assert any(moving.is_held_out(moving.draw_scene(rng)) for _ in range(200))  # what training leaves out is drawn
    captions = [r["captions"][0] for r in held_out]
    assert len(set(captions)) == len(captions) and not set(captions) & {
        t for r in train_sample for t in r["references"]
    }


def test_captions_say_all_and_differ_where_descriptions_do(train_sample):
    scenes = list(moving.descriptions())[::997]
    known = collections.Counter(text for scene in scenes for text in moving.wordings(scene))
    assert max(known.values()) == 1 and len(known) == 4 * len(scenes)
    assert max(len(text.split()) for text in known) == 17
    for record in train_sample:
        assert len(record["captions"]) == 1 and record["captions"][0] in record["references"]
    forms = collections.Counter(r["references"].index(r["captions"][0]) for r in train_sample)
    assert len(forms) == 4 and min(forms.values()) > 25


def answer(question, record):
    """From the words of the question and the annotation."""
    objects, walls = record["annotation"]["objects"], record["annotation"]["walls"]
    bouncing = [item for item in objects if item["bounces"]]

    def only(text):
        words = [word for word in text.split() if word != "object"]
        (item,) = [item for item in objects if all(word in (item["color"], item["shape"]) for word in words)]
        return item

    if m := re.fullmatch(r"what colour is the object that starts to move (\w+)\?", question):
        (item,) = [item for item in objects if item["direction"] == m[1]]
        return item["color"]
    if question == "what colour is the object that bounces first?":
        assert len(bouncing) == 2
        return min(bouncing, key=lambda item: item["bounce_time"])["color"]
    if m := re.fullmatch(r"what (colour|shape) is the (.*)\?", question):
        return only(m[2])[{"colour": "color"}.get(m[1], m[1])]
    if m := re.fullmatch(r"which way does the (.*) start to move\?", question):
        return only(m[1])["direction"]
    if m := re.fullmatch(r"how fast is the (.*)\?", question):
        return only(m[1])["speed"]
    if m := re.fullmatch(r"does the (.*) bounce\?", question):
        return "yes" if only(m[1])["bounces"] else "no"
    return {"how many clicks are there?": str(len(bouncing)), "what are the walls made of?": walls}[question]


def test_each_question_has_the_one_right_answer(train_sample, held_out):
    names = answer_index(Moving.answer_names)
    kinds = collections.Counter()
    for record in [*train_sample, *held_out]:
        assert record["answers"] == [answer(record["question"], record)] * 10, record["question"]
        scores = soft_scores(record["answers"], names)
        assert scores.max() == scores.sum() == 1
        kinds[record["question_type"]] += 1
    assert kinds.keys() == TYPES.keys() and min(kinds.values()) >= 3
    assert {r["answers"][0] for r in train_sample} | {r["answers"][0] for r in held_out} == set(Moving.answer_names)


def test_transcripts_name_the_clicks_in_their_order(train_sample):
    names = {name: shape for shape, name in moving.PITCH_NAMES.items()}
    for record in train_sample:
        clicks, _, walls = record["annotation"]["transcript"].rpartition(" on ")
        bouncing = [item for item in record["annotation"]["objects"] if item["bounces"]]
        bouncing.sort(key=lambda item: item["bounce_time"])
        assert walls == record["annotation"]["walls"]
        assert [names[word] for word in clicks.split() if word != "click"] == [item["shape"] for item in bouncing]


def test_embedded_words_are_those_of_all_texts(train_sample, held_out):
    tokenizer = make_tokenizer("words:moving", 20)
    records = [*train_sample, *held_out]
    texts = [
        t for r in records for t in (*r["references"], r["question"], r["answers"][0], r["annotation"]["transcript"])
    ]
    ids, mask = tokenizer([*texts, *CLASS_NAMES])
    assert not (ids == 3).any() and mask.sum(1).max() == 19  # no unknown word, nothing cut
    assert set(ids[mask].tolist()) - {1, 2} == set(range(6, tokenizer.vocab_size))  # and no word in vain


def test_the_source_has_a_name_splits_and_limits():
    assert open_source("moving").name == "moving/train" and open_source("moving/test").name == "moving"
    with pytest.raises(UserError, match="data.train='moving/tst': split='tst'.*did you mean 'test'"):
        open_source("moving/tst")
    for field, value in (("frames", 4), ("size", 16), ("sample_rate", 4000)):
        with pytest.raises(UserError, match=f"{field}={value} is too small"):
            Moving("train", **{field: value})
    for length in (0, 4_001):
        with pytest.raises(UserError, match=f"length={length} is out of range for moving/test; choose from 1 to 4000"):
            Moving("test", length=length)
