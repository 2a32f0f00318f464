import collections
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from mmjax.data.bad_example import REASONS, BadExample
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.eval_examples import EvalExamples
from mmjax.data.loading.example_transforms import PairTransform
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import MachineError, UserError
from mmjax.io.retries import ReadError, StorageAwayError

SPEC = ImageSpec(size=8)
TOKENIZER = make_tokenizer("bytes", 12)


class FakeSource:
    """Records whose id, first pixel and captions tell which one they are; `faults` maps an index to what is wrong."""

    class_names = None
    templates = None

    def __init__(self, n, name="fake", offset=0, faults=None):
        self.n, self.name, self.offset, self.faults = n, name, offset, faults or {}

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not 0 <= index < self.n:
            raise IndexError(index)
        fault = self.faults.get(index)
        if isinstance(fault, Exception):
            raise fault
        image = np.random.default_rng(self.offset + index).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        record = {"image": image, "captions": [f"{index}a", f"{index}b", f"{index}c"], "id": self.offset + index}
        return {**record, **(fault or {})}


def make(*mixture, seed=0, **options):
    return TrainExamples(mixture, seed=seed, transform=PairTransform(SPEC, TOKENIZER), **options)


def example_id(example):
    return int(example["id"][0]) + (int(example["id"][1]) << 32)


def caption(example):
    return bytes(int(i) for i in example["text"] if i < 256).decode()


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_an_example_has_the_batch_s_keys_shapes_and_dtypes():
    example = make((FakeSource(5), 1))[3]
    assert {k: (v.dtype.name, v.shape) for k, v in example.items()} == {
        "image": ("uint8", (8, 8, 3)),
        "text": ("int32", (12,)),
        "text_mask": ("bool", (12,)),
        "id": ("uint32", (2,)),
        "substitution_reason": ("int8", ()),
        "text_is_full": ("bool", ()),
    }


def test_texts_that_fill_the_context():
    """12 ids with two specials: ten bytes fill them, more are cut."""
    texts = ["nine byte", "ten bytes.", "eleven byte"]
    examples = make((FakeSource(3, faults={i: {"captions": [text]} for i, text in enumerate(texts)}), 1), shuffle=False)
    assert [bool(examples[i]["text_is_full"]) for i in range(3)] == [False, True, True]


def test_each_source_of_a_mixture_gives_each_example_once_an_epoch():
    small, large = FakeSource(7, "small"), FakeSource(19, "large", offset=100)
    examples = make((small, 0.25), (large, 0.75))
    seen = {"small": [], "large": []}
    for position in range(7 * 4 * 4):
        i = example_id(examples[position])
        seen["small" if i < 100 else "large"].append(i % 100)
    assert (len(seen["small"]), len(seen["large"])) == (28, 84)
    for name, n in (("small", 7), ("large", 19)):
        epochs = [seen[name][i : i + n] for i in range(0, len(seen[name]) - n + 1, n)]
        assert len(epochs) == 4 and all(sorted(epoch) == list(range(n)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 4  # another order each time


def test_without_shuffling_the_source_is_read_in_its_order():
    examples = make((FakeSource(5), 1), shuffle=False)
    assert [example_id(examples[p]) for p in range(12)] == [0, 1, 2, 3, 4] * 2 + [0, 1]


def test_an_example_is_a_pure_function_of_seed_and_position():
    first, again, other = (make((FakeSource(6), 2), (FakeSource(9), 1), seed=s) for s in (1, 1, 2))
    backwards = {p: again[p] for p in reversed(range(40))}
    assert all(same(first[p], backwards[p]) for p in range(40))
    assert sum(same(first[p], other[p]) for p in range(40)) < 4
    assert same(first[7], first[np.int64(7)])


def test_caption_and_crop_change_from_epoch_to_epoch():
    examples = make((FakeSource(1), 1))
    visits = [examples[p] for p in range(60)]
    counts = collections.Counter(caption(v) for v in visits)
    assert set(counts) == {"0a", "0b", "0c"} and min(counts.values()) > 8
    assert len({v["image"].tobytes() for v in visits}) > 4


FAULTS = {
    1: ({"image": b"not an image"}, "not_image"),
    4: (FileNotFoundError("gone.jpg"), "missing"),
    6: (PermissionError("locked.jpg"), "read"),
    8: ({"captions": []}, "no_caption"),
    9: ({"captions": ["", " \n"]}, "no_caption"),
    11: (BadExample("too_large"), "too_large"),
    13: (BadExample("cursed", "own reason of a source"), "other"),
}


def test_a_bad_example_is_replaced_counted_and_shifts_nothing():
    n = 24
    good = make((FakeSource(n), 1))
    bad = make((FakeSource(n, faults={i: fault for i, (fault, _) in FAULTS.items()}), 1))
    for position in range(2 * n):
        _, _, index = good.locate(position)
        expected, example = good[position], bad[position]
        if index in FAULTS:
            assert REASONS[example["substitution_reason"]] == FAULTS[index][1]
            assert example_id(example) not in FAULTS
            assert same(example, bad[position])
        else:
            assert same(example, expected) and example["substitution_reason"] == 0
    stand_ins = {example_id(bad[p]) for p in range(2 * n) if bad[p]["substitution_reason"]}
    assert len(stand_ins) > 5  # not always the same one


def test_a_replacement_comes_from_the_same_component():
    broken = FakeSource(10, "broken", faults={i: FileNotFoundError("x") for i in range(9)})
    examples = make((broken, 1), (FakeSource(10, "fine", offset=100), 1), max_tries=200)
    for position in range(40):
        example = examples[position]
        component, _, index = examples.locate(position)
        if component == 0:
            assert example_id(example) == 9 and bool(example["substitution_reason"]) == (index != 9)
        else:
            assert example_id(example) == 100 + index and example["substitution_reason"] == 0


class FakeShards(FakeSource):
    """The same in shards of 4, 5 and 6 examples; remembers what it was told to prepare."""

    shard_lengths = np.array([4, 5, 6])

    def __init__(self, **options):
        super().__init__(15, **options)
        self.prepared = []

    def prefetch_shards(self, shards):
        self.prepared.append(shards)


def test_windowed_order_reads_a_shard_after_the_other_and_tells_the_source_which():
    source = FakeShards()
    examples = make((source, 1), order="windowed", window=1)
    for epoch in range(3):
        ids = [example_id(examples[epoch * 15 + i]) for i in range(15)]
        assert sorted(ids) == list(range(15))
        shards = np.searchsorted([4, 9, 15], ids, side="right").tolist()
        assert len([a for a, b in zip(shards, shards[1:], strict=False) if a != b]) == 2
        windows = source.prepared[epoch * 3 : epoch * 3 + 3]
        assert [shards[i] for i in np.flatnonzero(np.diff([-1, *shards]))] == [window[0] for window in windows]
        assert [len(window) for window in windows] == [2, 2, 1]  # this window's shard and the next one's
    assert len(source.prepared) == 9


def test_threads_on_both_sides_of_a_window_s_end_tell_the_source_once():
    source = FakeShards()
    examples = make((source, 1), order="windowed", window=1)
    in_turns = [p for pair in zip(range(30), range(3, 33), strict=True) for p in pair]  # one thread is ahead by three
    for position in in_turns:
        examples[position]
    expected = FakeShards()
    alone = make((expected, 1), order="windowed", window=1)
    for position in range(33):
        alone[position]
    assert source.prepared == expected.prepared


def test_threads_at_once_tell_the_source_of_each_window_once():
    source = FakeShards()
    examples = make((source, 1), order="windowed", window=1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(examples.__getitem__, range(45)))
    expected = FakeShards()
    alone = make((expected, 1), order="windowed", window=1)
    for position in range(45):
        alone[position]
    assert len(expected.prepared) == 9
    # In order and none twice; a window may be left out that a thread has gone past.
    remaining = iter(expected.prepared)
    assert source.prepared and all(shards in remaining for shards in source.prepared)
    assert source.prepared[-1] == expected.prepared[-1]


def test_sources_without_shards_are_permuted_whole_under_windowed_order():
    ids = [example_id(make((FakeSource(9), 1), order="windowed", window=1)[i]) for i in range(9)]
    assert ids == [example_id(make((FakeSource(9), 1))[i]) for i in range(9)]


def test_a_stand_in_lies_in_the_window_while_that_has_any_good_example():
    faults = {i: FileNotFoundError("x") for i in (0, 1, 2, 5)} | {i: BadExample("empty") for i in range(9, 15)}
    examples = make((FakeShards(faults=faults), 1), order="windowed", window=1)
    for position in range(15):
        _, _, index = examples.locate(position)
        example = examples[position]
        if index in faults:
            result = example_id(example)
            assert result not in faults and (result in range(4) or index >= 4)
            assert REASONS[example["substitution_reason"]] == ("empty" if index >= 9 else "missing")


def test_a_storage_that_fails_again_and_again_stops_the_run():
    """At the first of its examples: another one in its place would be the storage's choice."""
    source = FakeSource(50, "web", faults={7: StorageAwayError("http://x/0.tar: 503, for 120 s")})
    with pytest.raises(MachineError, match=r"the storage of 'web' fails \(http://x/0.tar: 503, for 120 s\)"):
        [make((source, 1))[i] for i in range(50)]
    one = FakeSource(50, faults={7: ReadError("locked")})
    replaced = [int(make((one, 1))[i]["substitution_reason"]) for i in range(50)]
    assert [REASONS[code] for code in replaced if code] == ["read"]


def test_captions_are_drawn_by_their_weights():
    fault = {"captions": ["a", " ", "b", "c"], "caption_weights": [0.5, 9.0, 0.3, 0.2]}
    examples = make((FakeSource(1, faults={0: fault}), 1))
    counts = collections.Counter(caption(examples[p]) for p in range(1000))
    assert abs(counts["a"] - 500) < 60 and abs(counts["b"] - 300) < 60 and abs(counts["c"] - 200) < 60
    assert sum(counts.values()) == 1000


def test_blank_captions_are_never_drawn():
    examples = make((FakeSource(1, faults={0: {"captions": ["", "real", "  "]}}), 1))
    assert {caption(examples[p]) for p in range(20)} == {"real"}


def test_a_source_without_usable_examples_stops_the_run_and_is_named():
    source = FakeSource(3, "web", faults={i: FileNotFoundError("/data/gone.jpg") for i in range(3)})
    with pytest.raises(UserError, match=r"data.train: 5 examples of 'web' in a row.*/data/gone.jpg") as caught:
        make((source, 1), max_tries=5)[0]
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_decoded_is_told_with_its_path():
    broken = {"image": b"no image", "path": "/data/a.jpg"}
    source = FakeSource(3, "web", faults=dict.fromkeys(range(3), broken))
    with pytest.raises(UserError, match=r"not_image: /data/a.jpg: 8 bytes of no image format"):
        make((source, 1), max_tries=3)[0]
    with pytest.raises(UserError, match=r"example 1 of 'web' .*not_image: /data/a.jpg: 8 bytes"):
        EvalExamples(source, SPEC)[1]


@pytest.mark.parametrize("kind", ["json", pytest.param("sentencepiece", marks=pytest.mark.full)])
def test_half_an_emoji_is_a_bad_example(kind, caplog):
    transform = PairTransform(SPEC, make_tokenizer(f"{kind}:x", 12, file=tokenizer_file(kind)))
    source = FakeSource(50, faults={7: {"captions": ["a \ud83d cat"], "path": "caf\udce9/\x1b[31m.jpg"}})
    examples = TrainExamples([(source, 1)], seed=0, transform=transform)
    reasons = [REASONS[examples[position]["substitution_reason"]] for position in range(50)]
    assert reasons.count("encoding") == 1 and reasons.count("ok") == 49
    assert caplog.text.isprintable() or caplog.text.strip().isprintable()


def tokenizer_file(kind):
    if kind == "json":
        return tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "</s>": 1}, "<unk>")).to_str().encode()
    import sentencepiece  # which the ordinary tests do not install

    model = io.BytesIO()
    settings = dict(vocab_size=20, pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(["a cat"] * 9), model_writer=model, **settings)
    return model.getvalue()


def test_evaluation_names_whatever_one_example_raises(tmp_path):
    source = FakeSource(5, "five", faults={3: KeyError("caption")})
    with pytest.raises(UserError, match=r"data.eval: example 3 of 'five' cannot be read \(error: KeyError") as caught:
        list(EvalExamples(source, SPEC))
    temporary = Path(str(caught.value).rpartition(" ")[2])
    assert "raise fault" in temporary.read_text()
    temporary.unlink()


def test_workers_tell_the_first_bad_example_of_a_reason_once(caplog):
    examples = make((FakeSource(20, faults={3: KeyError("a"), 4: KeyError("b"), 5: FileNotFoundError("c")}), 1))
    copies = [pickle.loads(pickle.dumps(examples)) for _ in range(3)]
    for copy in copies:
        for position in range(20):
            copy[position]
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("mixture", [[], [(FakeSource(0), 1)], [(FakeSource(3), 0)], [(FakeSource(3), -1.5)]])
def test_a_mixture_that_gives_nothing_is_refused(mixture):
    with pytest.raises(UserError, match="data.train"):
        make(*mixture)


def test_evaluation_sees_every_example_once_in_order_and_unchanged():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(5)]
    source = FakeSource(5, faults={i: {"image": image, "label": 4 - i} for i, image in enumerate(images)})
    examples = EvalExamples(source, SPEC)
    assert len(examples) == 5
    for i, example in enumerate(examples):
        assert np.array_equal(example.image, images[i])
        assert (example.label, example.id, example.captions) == (4 - i, i, [f"{i}a", f"{i}b", f"{i}c"])
    assert i == 4
    assert EvalExamples(FakeSource(1), SPEC)[0].label is None


@pytest.mark.parametrize("threads", [1, 3])
def test_evaluation_decodes_ahead_and_stops_where_the_reader_does(threads):
    source, read = FakeSource(100), []
    original = FakeSource.__getitem__
    source.__class__ = type("Watched", (FakeSource,), {"__getitem__": lambda s, i: read.append(i) or original(s, i)})
    examples = EvalExamples(source, SPEC, threads=threads)
    assert [example.id for example in examples.read([5, 3, 99])] == [5, 3, 99]
    iterator = iter(examples)
    assert [next(iterator).id for _ in range(3)] == [0, 1, 2]
    iterator.close()
    assert len(read) < 3 + 3 + 5 * threads


@pytest.mark.parametrize("fault", [{"image": b"broken"}, FileNotFoundError("gone.jpg")])
def test_a_bad_evaluation_image_is_an_error_that_names_it(fault):
    examples = EvalExamples(FakeSource(4, "coco", faults={2: fault}), SPEC)
    assert examples[1].id == 1
    with pytest.raises(UserError, match="data.eval: example 2 of 'coco'"):
        list(examples)
