"""PyTorch's files are read without PyTorch, and nothing in them is executed."""

import collections
import io
import os
import pickle
import pickletools
import zipfile

import numpy as np
import pytest

from mmjax.errors import UserError
from mmjax.interop import torch_file
from mmjax.interop.tensor_files import open_tensors

# -- writing, with Python's own pickle and stand-ins that are called as PyTorch's are ----------------------------------


class FloatStorage:
    """Pickled as `torch.FloatStorage`."""


class Tensor:
    """Pickled as a call of `torch._utils._rebuild_tensor_v2`."""

    def __init__(self, key, shape, strides, offset=0, count=12):
        self.arguments = (key, count), offset, shape, strides, False, collections.OrderedDict()

    def __reduce__(self):
        return _rebuild_tensor_v2, self.arguments


def _rebuild_tensor_v2(*arguments):
    raise AssertionError("called")


class Pickler(pickle._Pickler):
    """Gives the stand-ins the names of the originals."""

    NAMES = {_rebuild_tensor_v2: ("torch._utils", "_rebuild_tensor_v2"), FloatStorage: ("torch", "FloatStorage")}

    def persistent_id(self, value):
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
            return ("storage", FloatStorage, value[0], "cpu", value[1])
        return None

    def save_global(self, value, name=None):
        if value in self.NAMES:
            module, attribute = self.NAMES[value]
            self.write(pickle.GLOBAL + f"{module}\n{attribute}\n".encode())
            self.memoize(value)
        else:
            super().save_global(value, name)

    dispatch = {**pickle._Pickler.dispatch, type: save_global, type(_rebuild_tensor_v2): save_global}


def pickled(content):
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def write(path, program, storages=(), **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        for key, numbers in storages:
            archive.writestr(f"archive/data/{key}", np.asarray(numbers, np.float32).tobytes())
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return path


NUMBERS = np.arange(12.0)


def test_views_of_one_storage(tmp_path):
    content = collections.OrderedDict(
        whole=Tensor("0", (3, 4), (4, 1)), transposed=Tensor("0", (4, 2), (1, 4), 4), scalar=Tensor("0", (), (), 7)
    )
    program = pickled({"state_dict": content, "epoch": 3, "options": [1.5, None, True, ("a", 2)], "name": "x"})
    shapes, read = torch_file.open_file(write(tmp_path / "a.pt", program, [("0", NUMBERS)]))
    assert shapes == {"state_dict.whole": (3, 4), "state_dict.transposed": (4, 2), "state_dict.scalar": ()}
    np.testing.assert_array_equal(read("state_dict.whole"), NUMBERS.reshape(3, 4))
    np.testing.assert_array_equal(read("state_dict.transposed"), NUMBERS.reshape(3, 4)[1:].T)
    assert read("state_dict.scalar") == 7


# -- attacks -----------------------------------------------------------------------------------------------------------


class Attack:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def attacks(target):
    """Programs that would make `target`, by the names that messages show."""
    by_inst = b"(S'" + str(target).encode() + b"'\nios\nmkdir\n."
    by_getattr = b"c__builtin__\ngetattr\n(cos\nS'mkdir'\ntR(S'" + str(target).encode() + b"'\ntR."
    return {
        "names posix.mkdir": pickle.dumps(Attack(target), protocol=2),
        "names posix.mkdir ": pickle.dumps([1, {"state_dict": Attack(target)}], protocol=4),
        "uses INST": by_inst,
        "names __builtin__.getattr": by_getattr,
        "names builtins.eval": pickle.dumps(eval, protocol=4),
        "uses EXT1": b"\x80\x02\x82\x01.",
        # An allowed name must not lead to another.
        "names torch._utils.os": b"\x80\x02ctorch._utils\nos\n.",
        "names torch.load": b"\x80\x02ctorch\nload\n.",
        # A module's class outside of a TorchScript archive.
        "names __torch__.Model": b"\x80\x02c__torch__\nModel\n)\x81}b.",
    }


@pytest.mark.parametrize("message", attacks("x"))
def test_a_malicious_pickle_is_refused_and_nothing_is_executed(message, tmp_path):
    target = tmp_path / "made by the attack"
    program = attacks(target)[message]
    with pytest.raises(UserError, match=f"refused, as its pickle {message.strip()}.*nothing was executed") as error:
        open_tensors(write(tmp_path / "model.bin", program))
    assert "\n" not in str(error.value)
    assert not target.exists()


def test_the_attack_works_where_pickles_are_loaded(tmp_path):
    """So that the test above can fail."""
    target = tmp_path / "made"
    pickle.loads(attacks(target)["names posix.mkdir"])
    assert target.is_dir()


def test_calls_of_what_is_no_function_are_refused(tmp_path):
    for program in (b"\x80\x02}(K\x01tR.", b"\x80\x02ctorch\nFloatStorage\n(tR.", b"\x80\x02K\x01}b."):
        pickletools.dis(program, out=io.StringIO())  # well-formed all the same
        with pytest.raises(UserError, match="refused, as its pickle (calls|sets)"):
            open_tensors(write(tmp_path / "model.pt", program))


@pytest.mark.parametrize(
    "program",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02h\x05.",
        b"\x80\x02}K\x01s.",
        b"\x80\x02]\x85R.",
        b"\x80\x02\x8c\x05ab.",
    ],
)
def test_damaged_pickles(program, tmp_path):
    with pytest.raises(UserError, match="refused, as its pickle") as error:
        open_tensors(write(tmp_path / "model.pt", program))
    assert "\n" not in str(error.value)


def test_deep_nesting_is_refused(tmp_path):
    depth = 20_000
    program = b"\x80\x02" + b"}U\x01a" * depth + b"N" + b"s" * depth + b"."
    with pytest.raises(UserError, match="refused"):
        open_tensors(write(tmp_path / "model.pt", program))


@pytest.mark.parametrize(
    "tensor, message",
    [
        (Tensor("0", (3, 5), (5, 1)), "reaches beyond its numbers"),
        (Tensor("0", (1000000, 1000000), (0, 0)), "reaches beyond its numbers"),
        (Tensor("0", (2,), (1,), offset=11), "reaches beyond its numbers"),
        (Tensor("0", (2,), (-1,), offset=3), "impossible shape"),
        (Tensor("0", (2,), (1, 1)), "impossible shape"),
        (Tensor("0", (13,), (1,), count=13), "missing or cut off"),
        (Tensor("../../secret", (3,), (1,)), "missing or cut off"),
    ],
)
def test_tensors_outside_of_their_storage(tensor, message, tmp_path):
    path = write(tmp_path / "a.pt", pickled({"w": tensor}), [("0", NUMBERS)])
    with pytest.raises(UserError, match=message):
        open_tensors(path)


def test_a_storage_that_was_changed_is_noticed(tmp_path):
    path = write(tmp_path / "a.pt", pickled({"w": Tensor("0", (3, 4), (4, 1))}), [("0", NUMBERS)])
    content = bytearray(path.read_bytes())
    offset = content.index(np.float32(5).tobytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="w is damaged"):
        open_tensors(path).read("w")


def test_other_files(tmp_path):
    old = tmp_path / "old.pt"
    old.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.")
    with pytest.raises(UserError, match="format before version 1.6, which is not read; save its state_dict as safeten"):
        open_tensors(old)
    old.write_bytes(b"hello")
    with pytest.raises(UserError, match="not a file of torch.save"):
        open_tensors(old)
    content = write(tmp_path / "a.pt", pickled({"w": Tensor("0", (3, 4), (4, 1))}), [("0", NUMBERS)]).read_bytes()
    old.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or cut off"):
        open_tensors(old)
    with zipfile.ZipFile(old, "w") as archive:
        archive.writestr("something", "else")
    with pytest.raises(UserError, match="no data.pkl"):
        open_tensors(old)
    with zipfile.ZipFile(old, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." + bytes(1000))
    with pytest.raises(UserError, match="compressed archive"):
        open_tensors(old)
    with pytest.raises(UserError, match="big-endian"):
        open_tensors(write(old, pickled({}), byteorder="big"))


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_what_torch_saves_is_read(tmp_path, dtype):
    import torch

    generator = torch.Generator().manual_seed(0)
    base = (10 * torch.randn(5, 6, generator=generator)).to(getattr(torch, dtype))
    content = {"a": base, "view": base[1:4, ::2], "t": base.T, "empty": base[:0], "scalar": base[2, 3]}
    nested = {
        "state_dict": collections.OrderedDict(content),
        "epoch": 1,
        "lr": 0.1,
        "p": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(nested, tmp_path / "a.pt")
    tensors = open_tensors(tmp_path / "a.pt")
    assert set(tensors) == {f"state_dict.{name}" for name in content} | {"p"}
    for name, want in content.items():
        np.testing.assert_array_equal(tensors.read(f"state_dict.{name}"), want.float().numpy())


@pytest.mark.full
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_what_torch_saves_as_integers_is_no_parameter(tmp_path, dtype):
    import torch

    torch.save({"w": torch.ones(2, 3), "ids": torch.ones(4).to(getattr(torch, dtype))}, tmp_path / "a.pt")
    tensors = open_tensors(tmp_path / "a.pt")
    assert tensors["ids"] == (4,) and tensors.read("w").shape == (2, 3)
    with pytest.raises(UserError, match=f"ids holds {dtype}, and parameters are floating-point numbers"):
        tensors.read("ids")


@pytest.mark.full
def test_whole_modules_of_torch_are_refused(tmp_path):
    import torch

    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    with pytest.raises(UserError, match="names torch.nn.modules.linear.Linear"):
        open_tensors(tmp_path / "a.pt")
