"""Files whose bytes were changed at random are read or refused in one line, and in no time."""

import io
import json
import shutil
import struct
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from mmjax.errors import UserError
from mmjax.interop import foreign_checkpoint
from mmjax.interop.tensor_files import open_tensors
from tests.interop.test_foreign_checkpoint import AS_SIGLIP, FORMATS, GIVEN, GOLDEN
from tests.interop.test_torch_file import NUMBERS, Tensor, pickled, write

FILES = sorted(
    file
    for name in FORMATS
    for file in (GOLDEN / name).iterdir()
    if file.name != "expected.npz" and file.suffix in (".json", ".npz", ".pt", ".bin", ".safetensors")
)
# A few hundred in all by default.
COUNTS = [pytest.param(25, id="some"), pytest.param(200, id="many", marks=pytest.mark.full)]


def mutated(rng, content):
    """A copy with a few bytes or bits changed, a part removed, doubled or set to one value, or its end cut off."""
    content = bytearray(content)
    # The structure of a zip lies at its end, of the others at their start.
    window = int(rng.choice([64, 400, 4000, len(content)]))
    low = max(0, len(content) - window) if rng.random() < 0.5 else 0
    start = low + int(rng.integers(0, max(1, min(window, len(content) - low))))
    length = int(rng.integers(1, 9))
    kind = rng.integers(0, 6)
    if kind == 0:
        content[start] = int(rng.integers(0, 256))
    elif kind == 1:
        content[start] ^= 1 << int(rng.integers(0, 8))
    elif kind == 2:
        del content[start : start + length]
    elif kind == 3:
        content[start:start] = content[start : start + length]
    elif kind == 4:
        content[start : start + length] = bytes([int(rng.choice([0, 255]))]) * len(content[start : start + length])
    else:
        del content[start:]
    return bytes(content)


def read_all(path, changes):
    """Opens and reads everything; what comes out has the shapes that were told."""
    opened = foreign_checkpoint.open_checkpoint(path, changes)
    for name, array in opened.read(lambda _, array: array).items():
        assert array.shape == opened.shapes[name]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_changed_bytes_give_a_model_or_one_line(file, count, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(file.parent, folder, ignore=shutil.ignore_patterns("expected.npz"))
    target, content = folder / file.name, file.read_bytes()
    rng = np.random.default_rng(len(file.parts[-2]) * 1000 + len(content))
    refused = 0
    for _ in range(count):
        changed = mutated(rng, content)
        target.write_bytes(changed)
        try:
            read_all(folder, GIVEN.get(file.parent.name, {}))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error), repr(str(error))
    assert refused > 0


@pytest.mark.parametrize("name", ["openai-jit/tiny.pt", "big_vision/siglip.npz"])
@pytest.mark.parametrize(
    "offset, value",
    [(6, 1), (8, 1), (8, 2), (10, 12), (10, 99), (42, 2**31), (46, 0xFF)],
    ids=["needs-6", "encrypted", "flag", "bzip2", "unknown-compression", "offset", "name"],
)
def test_entries_of_the_zip_that_say_something_else(name, offset, value, tmp_path):
    """Each directory entry in turn is said to be encrypted, compressed, elsewhere or called by no text."""
    path = tmp_path / name.split("/")[1]
    content = (GOLDEN / name).read_bytes()
    starts = [i for i in range(len(content)) if content.startswith(b"PK\x01\x02", i)]
    for start in starts[:: max(1, len(starts) // 6)]:
        changed = bytearray(content)
        size = {42: "<I", 46: "<B"}.get(offset, "<H")
        struct.pack_into(size, changed, start + offset, value)
        if offset == 46:
            changed[start + 9] |= 8  # names are UTF-8
        path.write_bytes(changed)
        try:
            tensors = open_tensors(path)
            for tensor in tensors:
                tensors.read(tensor)
        except UserError as error:
            assert "\n" not in str(error)


# -- PyTorch's files ---------------------------------------------------------------------------------------------------


def test_strides_of_axes_of_length_one_mean_nothing(tmp_path):
    program = pickled({"w": Tensor("0", (1, 4), (2**70, 1)), "e": Tensor("0", (0, 3), (2**70, 1))})
    tensors = open_tensors(write(tmp_path / "a.pt", program, [("0", NUMBERS)]))
    np.testing.assert_array_equal(tensors.read("w"), NUMBERS[None, :4])
    assert tensors.read("e").shape == (0, 3)


@pytest.mark.parametrize("shape", [(0, 2**70), (0, 2**40, 2**40), (1,) * 33, (2**70,)])
def test_shapes_beyond_any_tensor(shape, tmp_path):
    path = write(tmp_path / "a.pt", pickled({"w": Tensor("0", shape, (0,) * len(shape))}), [("0", NUMBERS)])
    with pytest.raises(UserError, match="impossible shape|a shape that no tensor has"):
        open_tensors(path)


def test_a_storage_that_claims_more_than_the_file_has(tmp_path):
    """The directory's size of a member is believed by no view of memory."""
    path = write(tmp_path / "a.pt", pickled({"w": Tensor("0", (40,), (1,), count=40)}), [("0", NUMBERS)])
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, entry + 24, 160)
    path.write_bytes(content)
    tensors = open_tensors(path)
    with pytest.raises(UserError, match="w (is damaged|are cut off)|numbers of w are cut off"):
        tensors.read("w")


def test_marks_below_others_are_not_copied(monkeypatch, tmp_path):
    """Work grows with the program, whatever lies on the stack: no list longer than what was written is made."""
    from mmjax.interop import torch_pickle

    moved = 0
    since_mark = torch_pickle._Machine._since_mark

    def count(machine):
        nonlocal moved
        moved += len(machine.stack)
        return since_mark(machine)

    monkeypatch.setattr(torch_pickle._Machine, "_since_mark", count)
    for many in (2_000, 20_000):
        program = b"\x80\x02" + b"N" * many + b"(t0" * many + b"}."
        path = write(tmp_path / "a.pt", program)
        moved = 0
        assert len(open_tensors(path)) == 0
        assert moved == 0  # nothing lies between the marks


HUGE = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60  # a tuple of a tuple of ..., with 2^60 leaves


@pytest.mark.parametrize(
    "program, message",
    [
        (HUGE + b"}h\x00Ns.", "a key that is neither a string nor a number"),
        (HUGE + b"\x8c\x01a\x93.", "is damaged"),
        (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "makes an OrderedDict of something"),
        (b"\x80\x02}U\x01a" + b"X" + struct.pack("<I", 2000) + b"b" * 2000 + b"Nss.", "refused"),
    ],
)
def test_programs_that_would_take_forever(program, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        open_tensors(write(tmp_path / "a.pt", program))
    assert "\n" not in str(error.value)


def test_a_storage_of_many_tensors_is_read_once(tmp_path, monkeypatch):
    content = {f"w{i}": Tensor("0", (4,), (1,), i) for i in range(8)} | {"last": Tensor("1", (12,), (1,))}
    path = write(tmp_path / "a.pt", pickled(content), [("0", NUMBERS), ("1", -NUMBERS)])
    tensors = open_tensors(path)
    names, read = [], zipfile.ZipFile.read
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda archive, name: names.append(name) or read(archive, name))
    for i in range(8):
        np.testing.assert_array_equal(tensors.read(f"w{i}"), NUMBERS[i : i + 4])
    np.testing.assert_array_equal(tensors.read("last"), -NUMBERS)
    assert names == ["archive/data/0", "archive/data/1"]


# -- the others --------------------------------------------------------------------------------------------------------


def header(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@pytest.mark.parametrize(
    "shape, message",
    [((3_000_000, 16), "too few bytes for shape"), ((3_000_000, 0), "3000000 layers, which no model has")],
)
def test_an_npz_that_claims_millions_of_layers(shape, message, tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("params/img/embedding/kernel.npy", header((0,)))
        archive.writestr("params/img/Transformer/encoderblock/LayerNorm_0/scale.npy", header(shape))
    with pytest.raises(UserError, match=message):
        foreign_checkpoint.open_checkpoint(path)


def test_a_name_that_counts_a_billion_layers(tmp_path):
    arrays = {"visual.conv1.weight": np.zeros((4, 3, 2, 2), np.float32)}
    arrays |= {"visual.positional_embedding": np.zeros((5, 4), np.float32)}
    arrays |= {"visual.transformer.resblocks.999999999.ln_1.weight": np.zeros(4, np.float32)}
    arrays |= {"visual.transformer.resblocks.0.mlp.c_fc.weight": np.zeros((4, 4), np.float32)}
    arrays |= {"token_embedding.weight": np.zeros((4, 4), np.float32)}
    save_file(arrays, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="names a layer 999999999, which no model has"):
        foreign_checkpoint.open_checkpoint(tmp_path)


@pytest.mark.parametrize("weight_map", [[], 3, {"a": 1}, {"a": ["x"]}, {"a": None}, None])
def test_an_index_of_another_kind(weight_map, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(UserError, match="not an index of weights"):
        foreign_checkpoint.open_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8, np.bool_])
def test_parameters_that_are_not_floating_point(dtype, tmp_path):
    with np.load(GOLDEN / "big_vision" / "siglip.npz") as file:
        arrays = dict(file)
    arrays["params/txt/head/bias"] = arrays["params/txt/head/bias"].astype(dtype)
    np.savez(tmp_path / "a.npz", **arrays)
    opened = foreign_checkpoint.open_checkpoint(tmp_path, AS_SIGLIP)
    with pytest.raises(UserError, match=f"txt/head/bias holds {np.dtype(dtype)}, and parameters are floating-point"):
        opened.read(lambda _, array: array)
