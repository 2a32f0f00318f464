"""What a checkpoint says is data: checked part by part, and without a say in what the machine does."""

import base64
import dataclasses
import itertools
import json
import random

import pytest

from mmjax.cli import runtime
from mmjax.config import parse
from mmjax.errors import UserError
from mmjax.inference import checkpoint_source
from mmjax.training import checkpoint, init_source, stored_meta
from tests import test_old_checkpoints
from tests.helpers import runs


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    test_old_checkpoints.unpack("clip", path)
    return path


@pytest.fixture
def metadata(workdir):
    """The file of the checkpoint's metadata, which is as it was after a test."""
    (path,) = workdir.glob("checkpoints/*/meta/metadata")
    text = path.read_text()
    yield path
    path.write_text(text)


def set_field(meta, path, value):
    *groups, name = path.split(".")
    for group in groups:
        meta = meta[group]
    meta[name] = value


SIZES = ("width", "depth", "heads", "mlp_dim", "image_size", "patch_size")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("position", -1, "position=-1, which is not"),
        ("position", "48", "position='48', which is not"),
        ("preprocessing", [1], r"preprocessing=\[1\], which is not"),
        ("preprocessing.size", "16", "preprocessing.size='16', which cannot be"),
        ("preprocessing.size", 10**9, "preprocessing.size=1000000000, but the model's images have"),
        ("preprocessing.mean", [0.5], "mean"),
        ("preprocessing.mean", 0.5, "preprocessing.mean=0.5, which cannot be"),
        ("preprocessing.nonsense", 1, "preprocessing.nonsense=1, which cannot be"),
        ("preprocessing.interpolation", "magic", "'magic'"),
        ("tokenizer", "bytes", "tokenizer='bytes', which is not"),
        ("tokenizer.vocab_size", "many", "tokenizer=.*, which is not"),
        ("tokenizer_file", "?!", r"tokenizer_file='\?!', which is not a file in base64"),
        ("versions", [], r"versions=\[\], which is not"),
        ("versions.jax", 3, "versions=.*, which is not"),
        ("facts", {"answers": [1]}, "facts=.*, which is not"),
        ("facts", {"shapes": [["a", [-1]]]}, "facts=.*, which is not"),
        ("plugins", [{"module": "os; import sys"}], "plugins"),
        ("config.model.image.width", "wide", "model.image.width='wide'"),
        *(("config.model.image." + name, 0, f"model.image.{name}=0 must be at least 1") for name in SIZES),
        *(("config.model.image." + name, -32, f"model.image.{name}=-32 must be at least 1") for name in SIZES),
        *(("config.model.image." + name, 10**9, f"model.image.{name}=1,000,000,000 is more than") for name in SIZES),
        ("config.model.image.image_size", 16_000, "model.image.image_size=16000 has .* patches"),
        ("config.model.text.vocab_size", 10**12, "model.text.vocab_size=1,000,000,000,000 is more than"),
        ("config.model.text.context_length", 10**8, "model.text.context_length=100,000,000 is more than"),
        ("config.model.text.eos_id", 2**40, "model.text.eos_id=1,099,511,627,776 is more than"),
        ("config.model.logit_scale_init", 0.0, "model.logit_scale_init=0.0 must be positive"),
        ("config.model.max_logit_scale", 0.0, "model.max_logit_scale=0.0 must be at least 1"),
        ("preprocessing", None, "preprocessing=null, but its model sees images"),
        ("config.model.image.nonsense", 1, "model.image.nonsense is no field"),
        ("config.data.tokenizer", "json:/etc/hostname", "and not the file of that tokenizer"),
        ("config.data.tokenizer", "json+lower:https://127.0.0.1:9/x", "and not the file of that tokenizer"),
        ("config.data.tokenizer", "sentencepiece:gs://b/x", "and not the file of that tokenizer"),
    ],
)
def test_a_part_that_mmjax_did_not_write(workdir, metadata, field, value, message):
    meta = json.loads(metadata.read_text())
    if field == "config.data.tokenizer":
        meta["tokenizer_file"] = None
    set_field(meta, field, value)
    metadata.write_text(json.dumps(meta))
    with pytest.raises(UserError, match=message) as error:
        checkpoint_source.open_checkpoint(workdir)
    assert str(error.value).startswith((str(workdir), "checkpoint")) and len(str(error.value)) < 500
    assert str(error.value).count(str(workdir)) == 1


def test_parameters_of_other_shapes_than_the_config_says(workdir, metadata):
    meta = json.loads(metadata.read_text())
    length = meta["config"]["model"]["text"]["context_length"]
    set_field(meta, "config.model.text.context_length", 100)
    metadata.write_text(json.dumps(meta))
    opened = checkpoint_source.open_checkpoint(workdir)
    message = rf"text/position_embedding has the shape \[{length}, .*the shape \[100, [^\n]*another$"
    with pytest.raises(checkpoint.DamagedCheckpoint, match=message):
        opened.read_unsharded()
    set_field(meta, "config.model.text.context_length", length)
    set_field(meta, "config.model.text.depth", meta["config"]["model"]["text"]["depth"] + 1)
    metadata.write_text(json.dumps(meta))
    with pytest.raises(checkpoint.DamagedCheckpoint, match="its parameter text/[^ ]* has the shape"):
        checkpoint_source.open_checkpoint(workdir).read_unsharded()


@pytest.mark.parametrize("name", ["config", "position", "preprocessing", "tokenizer", "versions"])
def test_a_part_that_is_missing(workdir, metadata, name):
    meta = json.loads(metadata.read_text())
    del meta[name]
    metadata.write_text(json.dumps(meta))
    with pytest.raises(UserError, match=f"lacks {name}"):
        checkpoint_source.open_checkpoint(workdir)
    with pytest.raises(UserError, match=f"^init_from='{workdir}': .* lacks {name}"):
        init_source.open_source(parse(runs.config(init_from=str(workdir))))


def test_random_changes_are_a_mistake_or_leave_the_model_as_it_is(workdir, metadata):
    """Any value in any place: one line, never another exception."""
    original = json.loads(metadata.read_text())
    leaves = list(_paths(original))
    values = [None, True, -1, 2**70, 1e308, "", "\x00\ud800", [], [[]], {}, {"": 1}, [None], "x" * 1000]
    draw = random.Random(0)
    cases = draw.sample(list(itertools.product(leaves, values)), 300)
    refused = 0
    for path, value in cases:
        meta = json.loads(json.dumps(original))
        replace_at(meta, path, value)
        metadata.write_text(json.dumps(meta))
        try:
            opened = checkpoint_source.open_checkpoint(workdir)
            stored_meta.without_machine_fields(opened.config, workdir)
            assert opened.image_spec is not None or value is None
        except UserError as error:
            refused += 1
            assert len(str(error)) < 2000, (path, value)
    assert refused > 150


def _paths(tree, path=()):
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield (*path, name)
        if isinstance(value, (dict, list)):
            yield from _paths(value, (*path, name))


def replace_at(tree, path, value):
    *groups, name = path
    for group in groups:
        tree = tree[group]
    tree[name] = value


class TestWithoutMachineFields:
    def config(self, **fields):
        return parse(runs.config(**fields))

    def test_folders_and_flags_are_left_out(self):
        config = self.config(
            xla_flags="--xla_dump_to=x", compilation_cache="y", data__cache="z", init_from="w", data__eval="digits/test"
        )
        usable, left_out = stored_meta.without_machine_fields(config, "DIR")
        assert left_out == {
            "compilation_cache": "y",
            "xla_flags": "--xla_dump_to=x",
            "data.cache": "z",
            "init_from": "w",
        }
        assert usable == parse(runs.config(data__eval="digits/test"))
        assert stored_meta.without_machine_fields(usable, "DIR") == (usable, {})

    @pytest.mark.parametrize(
        ("source", "workdir", "is_left_out"),
        [
            ("pairs:/data/coco.tsv", "DIR", False),
            ("shapes/test+folder:pets", "gs://mine/run", False),
            ("wds:gs://mine/{00..09}.tar", "gs://mine/run", False),
            ("wds:gs://other/{00..09}.tar", "gs://mine/run", True),
            ("wds:gs://mine/{00..09}.tar", "DIR", True),
            ("wds:gs://mine/a.tar::https://127.0.0.1/b.tar", "gs://mine/run", True),
            ("shapes/test+pairs:http://127.0.0.1/x.tsv", "DIR", True),
            ("karpathy:a.json,images=https://127.0.0.1/x/test", "DIR", True),
            ("pairs:simplecache::memory://x.tsv", "DIR", True),
        ],
    )
    def test_urls_elsewhere_are_left_out(self, source, workdir, is_left_out):
        for field in ("data__eval", "eval__train"):
            usable, left_out = stored_meta.without_machine_fields(self.config(**{field: source}), workdir)
            assert bool(left_out) == is_left_out
            assert getattr(getattr(usable, field[:4]), field[6:]) == ("" if is_left_out else source)


def test_a_stored_config_tells_the_machine_nothing(workdir, metadata, capsys):
    meta = json.loads(metadata.read_text())
    set_field(meta, "config.xla_flags", "--xla_dump_to=x")
    set_field(meta, "config.compilation_cache", "y\x1b[2J")
    metadata.write_text(json.dumps(meta))
    parser = runtime.make_parser("eval", "")
    runtime.add_model_flags(parser)
    options = parser.parse_args([f"--workdir={workdir}"])
    config = runtime.ModelFlags(options).read_config([])
    assert (config.xla_flags, config.compilation_cache) == ("", "auto")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" of the stored")[0] for line in lines] == [
        r"compilation_cache='y\x1b[2J'",
        "xla_flags='--xla_dump_to=x'",
    ]
    assert runtime.ModelFlags(options).read_config([("xla_flags", "--z=1")]).xla_flags == "--z=1"
    assert "xla_flags" not in capsys.readouterr().err


def test_the_file_of_a_tokenizer_is_the_checkpoints(workdir, metadata):
    meta = json.loads(metadata.read_text())
    config = dataclasses.replace(parse(runs.config()), data=parse(runs.config(data__tokenizer="words:gone.txt")).data)
    content = base64.b64encode(b"red\n").decode()
    assert stored_meta.read_tokenizer_file(meta | {"tokenizer_file": content}, config, "here") == b"red\n"
    with pytest.raises(UserError, match="^here is no whole checkpoint: .* data.tokenizer='words:gone.txt'"):
        stored_meta.read_tokenizer_file(meta | {"tokenizer_file": None}, config, "here")
