"""Whether texts are packed, into how many rows, what is said of it, and how a batch that does not fit is agreed on."""

import dataclasses
import json
from unittest import mock

import jax
import numpy as np
import pytest

from mmjax import tasks
from mmjax.config import parse, schema
from mmjax.data.loading import packing as packing_lib
from mmjax.data.loading.length_groups import LengthGrouper
from mmjax.errors import UserError
from mmjax.parallel.make_mesh import make_mesh
from mmjax.training import packing, validate_run
from tests.helpers import runs


def examples_of(config):
    tokenizer = tasks.make_tokenizer(parse(config))
    example_transform = tasks.Task(parse(config), tasks.make_image_spec(parse(config)), tokenizer).example_transform
    return tasks.make_train_examples(parse(config), tasks.open_mixture(parse(config)), example_transform)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return f"pairs:{runs.write_pairs(tmp_path_factory.mktemp('pairs'))}"  # captions of 16 characters, 18 tokens


def choose(config, capsys, devices=1, meta=None, platform="cpu"):
    """What is chosen, and what is said of it."""
    mesh = make_mesh(parse(config).mesh, jax.devices()[:devices])
    capsys.readouterr()
    with mock.patch.object(packing, "_platform", lambda mesh: platform):
        packer = packing.choose_packer(parse(config), mesh, examples_of(config), meta or {})
    return packer, capsys.readouterr().out


def changed(config, **changes):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return config


def test_auto_packs_on_accelerators_where_it_is_exact_and_pays(pairs, capsys):
    config = runs.config(data__train=pairs, batch_size=32, model__text__context_length=64)
    assert choose(config, capsys) == (None, "")
    for platform in ("gpu", "tpu"):
        packer, message = choose(config, capsys, platform=platform)
        assert packer == packing_lib.TextPacker(rows=8, length=80, captions=32, pieces=1, eos_id=258)
        assert message == (
            "texts are packed: 8 rows of 80 tokens hold the 32 texts of a device, 31% of the tokens of padded ones"
            " (1024 texts have 18.0 tokens on average)\n"
        )
    packer, message = choose(changed(config, model__text__context_length=20), capsys, platform="gpu")
    assert packer is None and message.startswith(
        "texts are padded: 8 rows of 80 tokens hold the 32 texts of a device, 100%"
    )
    assert choose(changed(config, data__pack_texts="off"), capsys, platform="gpu") == (None, "")


OBSTACLES = {
    "model.text.causal=False, so padding": dict(model__text__causal=False),
    "model.text.pool='last' reads": dict(model__text__pool="last"),
    "model.text.mask_padding=True goes by": dict(model__text__mask_padding=True),
    "model.text.dropout=0.1, whose noise": dict(model__text__dropout=0.1),
    "model.text.drop_path=0.1, whose noise": dict(model__text__drop_path=0.1),
}


@pytest.mark.parametrize("reason", OBSTACLES)
def test_what_cannot_be_packed_is_told(reason, pairs, capsys):
    config = runs.config(data__train=pairs, **OBSTACLES[reason])
    packer, message = choose(config, capsys, platform="gpu")
    assert packer is None and message.startswith(f"texts are padded: {reason}")
    with pytest.raises(UserError, match=rf"^data.pack_texts='on': {reason}.*; set 'auto'$"):
        validate_run.check_config(parse(changed(config, data__pack_texts="on")))


def model(variant, *objectives, **changes):
    """A config of another model on drawn scenes."""
    config = schema.base_config(variant)
    config.data.train, config.data.tokenizer = "shapes", "words:shapes"
    config.objectives.update(dict.fromkeys(objectives, 1.0))
    return changed(config, **changes)


CANNOT = {
    "model.text.dropout=0.1, whose noise of what stands behind": lambda: model(
        "tiny-coca", "caption", model__text__dropout=0.1
    ),
    "model.image.dropout=0.1, whose noise of what stands behind": lambda: model(
        "tiny-vilt", "mlm", model__image__dropout=0.1
    ),
    "objectives.itm pairs whole texts anew": lambda: model("tiny-qformer", "itm"),
}


@pytest.mark.parametrize("reason", CANNOT)
def test_models_whose_texts_stay_padded(reason):
    config = CANNOT[reason]()
    validate_run.check_config(parse(config))
    for name, value, remedy in (("pack_texts", "on", "set 'auto'"), ("length_groups", "8x20,8x9", "set it to ''")):
        with pytest.raises(UserError, match=rf"^data.{name}='{value}': {reason}.*; {remedy}$"):
            validate_run.check_config(parse(changed(config, **{f"data__{name}": value})))


def test_sharded_parameters_are_grouped_on_request(capsys):
    """Their gradients are reduced group by group."""
    config = model("tiny-captioner", "caption", batch_size=64, model__text__context_length=64, mesh__fsdp=2)
    validate_run.check_config(parse(config))
    with pytest.raises(UserError, match="^data.length_groups='8x20,8x9': mesh.fsdp=2 .*; data.pack_texts='on' [^;]*$"):
        validate_run.check_config(parse(changed(config, data__length_groups="8x20,8x9")))
    validate_run.check_config(parse(changed(config, data__length_groups="8x20,8x9", data__pack_texts="on")))
    packer, message = choose(config, capsys, devices=2, platform="gpu")
    assert packer is None and message.startswith(
        "texts are padded: mesh.fsdp=2 would reduce each group's gradients by them"
    )
    config = changed(config, data__pack_texts="on")
    validate_run.check_config(parse(config))
    assert choose(config, capsys, devices=2)[1].startswith("texts are grouped: ")


@pytest.mark.parametrize("noise", [dict(model__text__dropout=0.1), dict(objectives__mlm=1.0)], ids=str)
def test_noise_that_depends_on_a_text_s_padding(noise):
    config = model("tiny-albef", "itc", **noise)
    assert tasks.packing_obstacle(parse(config)) == ""
    with jax.threefry_partitionable(False):
        assert "draws other noise for shorter texts" in tasks.packing_obstacle(parse(config))
        assert tasks.packing_obstacle(parse(model("tiny-albef", "itc"))) == ""


def test_groups_of_captions(capsys):
    """Scenes are told in 9 to 16 words; no image is looked at, and what is stored is kept."""
    config = model("tiny-captioner", "caption", batch_size=64, model__text__context_length=64)
    assert choose(config, capsys) == (None, "")
    packer, message = choose(config, capsys, devices=2, platform="gpu")
    assert isinstance(packer, LengthGrouper)
    assert (packer.captions, packer.context_length, packer.extra, packer.shares) == (32, 64, -1, 2)
    assert sum(rows for rows, _ in packer.groups) == 32 and packer.groups[0][1] < 30
    assert message == (
        f"texts are grouped: {packer.describe()} hold the 32 texts of a device, {packer.share(64):.0%} of the tokens of"
        f" padded ones (1024 texts have {message.split('texts have ')[1][:4]} tokens on average)\n"
    )
    meta = {"text_packing": packing.to_meta(packer), "data": examples_of(config).describe()}
    meta = json.loads(json.dumps(meta))
    with mock.patch.object(packing_lib, "sample_lengths", None):  # no sample is read
        again, message = choose(config, capsys, devices=2, meta=meta, platform="gpu")
        assert again == packer and "(as before)" in message
        flags, message = choose(changed(config, data__length_groups="2x64,30x17"), capsys, devices=2, platform="gpu")
        assert flags.groups == ((2, 64), (30, 17)) and "(data.length_groups)" in message
    other, message = choose(config, capsys, devices=4, meta=meta, platform="gpu")
    assert sum(rows for rows, _ in other.groups) == 16 and f"before, {packer.describe()} for 32 texts)" in message


MISTAKES = {
    "8-77": "is not understood; give rows x tokens of each group, such as '8x77,24x33'",
    "0x20": "is not understood",
    "8x20,8x20": "tokens must fall from group to group, and texts have 20 at most",
    "8x21": "tokens must fall from group to group",
}


@pytest.mark.parametrize("groups", MISTAKES)
def test_mistaken_groups(groups):
    config = model("tiny-captioner", "caption", data__length_groups=groups)
    with pytest.raises(UserError, match=f"^data.length_groups='{groups}'.*{MISTAKES[groups]}"):
        validate_run.check_config(parse(config))


def test_groups_of_other_rows_than_a_device_has(pairs, capsys):
    config = model("tiny-captioner", "caption", data__length_groups="8x20,8x9", data__pack_texts="on", batch_size=32)
    message = "has 16 rows, but a device and microbatch has 32 texts; give as many"
    with pytest.raises(UserError, match=f"^data.length_groups='8x20,8x9' {message}$"):
        choose(config, capsys)
    config = changed(config, data__pack_texts="off")
    with pytest.raises(
        UserError, match="^data.length_groups='8x20,8x9' is not read with data.pack_texts='off'; set it"
    ):
        validate_run.check_config(parse(config))
    config = runs.config(data__train=pairs, data__length_groups="8x20,8x9")
    with pytest.raises(UserError, match="packs its texts, for which there is data.packed_rows; set it to ''"):
        validate_run.check_config(parse(config))


def test_mistakes(pairs):
    for name, value, text in (("pack_texts", "yes", "is not known"), ("packed_rows", -1, "must not be negative")):
        with pytest.raises(UserError, match=f"data.{name}={value!r} {text}"):
            validate_run.check_config(parse(runs.config(data__train=pairs, **{f"data__{name}": value})))


def test_rows_are_kept_at_resumption_unless_groups_or_data_are_others(pairs, capsys, monkeypatch):
    config = runs.config(data__train=pairs, batch_size=32, data__pack_texts="on")
    first, _ = choose(config, capsys)
    kept = dataclasses.replace(first, rows=first.rows + 1)  # what another version may have found
    meta = {"text_packing": dataclasses.asdict(kept), "data": examples_of(config).describe()}
    meta = json.loads(json.dumps(meta))
    monkeypatch.setattr(packing_lib, "sample_lengths", None)  # no sample is read
    packer, message = choose(config, capsys, meta=meta)
    assert packer == kept and "(as before)" in message
    packer, message = choose(changed(config, data__packed_rows=21), capsys, meta=meta)
    assert packer.rows == 21 and "(data.packed_rows)" in message
    monkeypatch.undo()
    packer, message = choose(changed(config, microbatch=2), capsys, devices=4, meta=meta)
    assert (packer.rows, packer.captions) == (1, 4)
    assert "1 rows of 80 tokens hold the 4 texts of a device and microbatch, 62%" in message
    assert "(1024 texts have 18.0 tokens on average; before, 9 rows of 80 tokens for 32 texts)" in message
    packer, message = choose(changed(config, data__train="shapes"), capsys, meta=meta)
    assert packer.rows > 8 and "; before, 9 rows of 80 tokens for 32 texts)" in message


LONG = dict(batch_size=32, model__text__context_length=64)
KINDS = {
    "two_tower": lambda: model("tiny", "itc", model__text__eos_id=2, **LONG),
    "captioner": lambda: model("tiny-captioner", "caption", **LONG),
    "coca": lambda: model("tiny-coca", "itc", **LONG),
    "albef": lambda: model("tiny-albef", "itc", **LONG),
    "qformer": lambda: model("tiny-qformer", "caption", **LONG),
}


@pytest.mark.parametrize(
    ("kind", "meta"),
    [*((kind, {"text_packing": None}) for kind in KINDS), ("captioner", {"bad_examples": {}})],
    ids=str,
)
def test_a_run_that_began_with_padded_texts_goes_on_with_them(kind, meta, capsys, monkeypatch):
    """Groups would give it other bits; 'on' asks for them."""
    config = KINDS[kind]()
    assert choose(config, capsys, platform="gpu")[0] is not None  # a new run's
    monkeypatch.setattr(packing_lib, "sample_lengths", None)  # no sample is read
    assert choose(config, capsys, meta=meta, platform="gpu") == (None, "texts are padded, as before\n")
    monkeypatch.undo()
    assert choose(changed(config, data__pack_texts="on"), capsys, meta=meta, platform="gpu")[0] is not None


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("kind", ["two_tower", "captioner"])
def test_a_run_that_began_with_texts_laid_out_keeps_them(kind, platform, capsys):
    """Also where a new run would not take them, as it pays too little."""
    config = KINDS[kind]()
    first, _ = choose(changed(config, data__pack_texts="on"), capsys)
    meta = {"text_packing": packing.to_meta(first), "data": examples_of(config).describe()}
    with mock.patch.object(type(first), "relative_cost", lambda self, context: 1.0):
        packer, message = choose(config, capsys, meta=meta, platform=platform)
    assert packer == first and message.endswith("(as before)\n")


def test_a_size_that_auto_does_not_read_is_named(pairs, capsys):
    config = model("tiny-captioner", "caption", data__length_groups="2x64,30x17", batch_size=32)
    config = changed(config, model__text__context_length=64)
    line = "; data.pack_texts='on' reads data.length_groups='2x64,30x17'\n"
    assert choose(config, capsys) == (None, f"texts are padded on CPUs{line}")
    assert choose(config, capsys, meta={"text_packing": None}, platform="gpu") == (
        None,
        f"texts are padded, as before{line}",
    )
    config = runs.config(data__train=pairs, data__packed_rows=21)
    assert choose(config, capsys)[1] == "texts are padded on CPUs; data.pack_texts='on' reads data.packed_rows=21\n"


def test_data_that_cannot_be_read_are_not_packed(pairs, capsys, monkeypatch):
    monkeypatch.setattr(packing_lib, "sample_lengths", lambda *_: np.array([], int))
    packer, message = choose(runs.config(data__train=pairs, data__pack_texts="on"), capsys)
    assert packer is None and message.startswith("texts are padded: none of the first training examples could be read")


# -- batches -----------------------------------------------------------------------------------------------------------

PACKER = packing_lib.TextPacker(rows=3, length=80, captions=4, pieces=1, eos_id=2)


class Feed:
    """Batches by number; those of `full` do not fit. From `broken` on the last one is repeated, with an error."""

    def __init__(self, full=(), broken=None):
        self.full, self.broken = full, broken
        self.number, self.error, self.closed = 0, None, False

    def __next__(self):
        if self.number == self.broken:
            self.error = KeyError(self.broken)
        else:
            self.number += 1
        position = np.full(4, -1 if self.number in self.full else 0, np.int32)
        return {"number": self.number, "text_row": position, "text_column": position}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


class Votes:
    """This process's vote and another one's."""

    def __init__(self, others=()):
        self.others, self.summed = others, []

    def sum(self, values):
        self.summed.append(values)
        return np.array(values) + (len(self.summed) in self.others)


def packed(batches):
    return [(batch["number"], "text_places" in batch) for batch in batches]


def test_batches_of_one_process():
    feed = Feed(full=(2, 5))
    with packing.TextLayoutBatches(feed, PACKER, None, 5) as batches:
        first = next(batches)
        assert feed.number == 1  # nothing is read ahead
        assert sorted(first) == ["number", "text_places"]
        assert (first["text_places"].rows, first["text_places"].length) == (3, 80)
        assert packed(batches) == [(2, False), (3, True), (4, True), (5, False)]
    assert feed.closed


def test_batches_of_several_processes():
    """A batch is padded where one process says so; votes are cast two batches ahead, and none for a batch too many."""
    feed, votes = Feed(full=(2,)), Votes(others=(4,))
    batches = packing.TextLayoutBatches(feed, PACKER, votes, 6)
    next(batches)
    assert feed.number == len(votes.summed) == 3
    assert packed(batches) == [(2, False), (3, True), (4, False), (5, True), (6, True)]
    assert feed.number == 6 and votes.summed == [[0], [1], [0], [0], [0], [0]]


def test_an_error_comes_with_its_batch():
    """It is met two batches ahead, and those before it are trained on."""
    batches = packing.TextLayoutBatches(Feed(broken=3), PACKER, Votes(), 6)
    errors = []
    for _ in range(5):
        number = next(batches)["number"]
        errors.append((number, batches.error is not None))
    assert errors == [(1, False), (2, False), (3, False), (3, True), (3, True)]


def test_many_batches_that_do_not_fit_are_told_once(capsys):
    list(packing.TextLayoutBatches(Feed(full=range(0, 400, 10)), PACKER, None, 400))
    assert capsys.readouterr().out == (
        "warning: the texts of 10 of 100 batches did not fit into 3 rows of 80 tokens and were padded, which is"
        " slower and the same otherwise; more fit with a larger data.packed_rows\n"
    )
    list(packing.TextLayoutBatches(Feed(full=(7, 300)), PACKER, None, 400))
    assert capsys.readouterr().out == ""
