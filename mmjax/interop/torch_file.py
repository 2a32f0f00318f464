"""PyTorch's .pt and .bin files without PyTorch and without unpickling.

`torch.save` writes a zip archive: a pickle that describes the tensors, and one member of raw bytes a storage. The
pickle is a program for a stack machine. Here that program is read, opcode by opcode, by an interpreter that can only
build dicts, lists, tuples, numbers, strings and descriptions of tensors: it looks up no name and calls nothing, and a
pickle that wants anything else is refused. TorchScript archives, as OpenAI published its weights, have the same
pickle with objects of their own classes, which are kept as plain records.
"""

import dataclasses
import math
import pickletools
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

from mmjax.errors import UserError

# What zipfile raises on damaged files: of the structure, of compression and encryption that it lacks, of the disk, of
# .npy headers inside.
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError),
    *(OSError, EOFError, ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError, Warning),
    *(SyntaxError, tokenize.TokenError),
)

_REMEDY = "save its state_dict as safetensors and load that"
_OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of the format before PyTorch 1.6

_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_MAX_AXES, _MAX_NUMBERS = 32, 2**58
_MAX_NAME_LENGTH = 1_000
_ORDERED_DICT = "collections OrderedDict"
_REBUILD_TENSOR = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
_SIZE = "torch Size"
# TorchScript's typed lists: their argument is the list.
_TYPED_LISTS = tuple(f"torch.jit._pickle build_{kind}list" for kind in ("int", "double", "bool", "tensor"))
_TAG = "torch.jit._pickle restore_type_tag"
_ALLOWED = {_ORDERED_DICT, *_REBUILD_TENSOR, _REBUILD_PARAMETER, _SIZE, *_TYPED_LISTS, _TAG}
_ALLOWED |= {f"torch {name}" for name in _STORAGES}


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name that a pickle mentions; nothing is ever looked up under it."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Raw numbers in a member of the archive."""

    key: str
    dtype: Any
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Record:
    """An object of a TorchScript class: its fields."""

    def __init__(self):
        self.state: dict[Any, Any] = {}


_T = TypeVar("_T")


class _Refused(Exception):
    """A pickle that wants something other than tensors in plain containers."""


def first_line(error: BaseException) -> str:
    """The first line of a message, or the error's name."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def open_file(path: Path) -> tuple[dict[str, tuple[int, ...]], Callable[[str], np.ndarray]]:
    """Lists a file's tensors.

    Args:
      path: a .pt, .pth or .bin file.

    Returns:
      Shapes by name (nested dicts and modules joined by dots), and a function that reads one.

    Raises:
      UserError: damaged, of the format before PyTorch 1.6, or asking for anything but tensors.
    """
    with path.open("rb") as file:
        head = file.read(len(_OLD_MAGIC))
    if head == _OLD_MAGIC:
        raise UserError(f"{path}: in PyTorch's format before version 1.6, which is not read; {_REMEDY}")
    if not head.startswith(b"PK"):
        raise UserError(f"{path}: not a file of torch.save (no zip archive); {_REMEDY}")
    try:
        archive = zipfile.ZipFile(path)
        members = {info.filename: info for info in archive.infolist()}
        main = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(main) != 1:
            raise UserError(f"{path}: no data.pkl in this zip archive, so not of torch.save; {_REMEDY}")
        folder = main[0].removesuffix("data.pkl")
        # TorchScript compresses its code, which is not read.
        used = [info for name, info in members.items() if name == main[0] or name.startswith(f"{folder}data/")]
        if any(info.compress_type != zipfile.ZIP_STORED for info in used):
            raise UserError(f"{path}: a compressed archive, which torch.save does not write; {_REMEDY}")
        order = b"little"
        if f"{folder}byteorder" in members:
            with archive.open(f"{folder}byteorder") as file:
                order = file.read(16)
        if order.strip() != b"little":
            raise UserError(f"{path}: written on a big-endian machine; {_REMEDY}")
        is_jit = any(name.startswith(f"{folder}code/") for name in members)
        tensors = _interpret(archive.read(main[0]), is_jit)
    except _Refused as error:
        raise UserError(f"{path}: refused, as its pickle {error}; nothing was executed; {_REMEDY}") from error
    except ZIP_ERRORS as error:
        raise UserError(f"{path}: damaged or cut off ({first_line(error)}); fetch it again") from error
    for name, tensor in tensors.items():
        _check_bounds(path, name, tensor, folder, members)

    kept: dict[str, np.ndarray] = {}  # the last storage that holds more than one tensor

    def numbers(name: str, storage: _Storage, is_shared: bool) -> np.ndarray:
        if storage.key in kept:
            return kept[storage.key].view(storage.dtype)
        kept.clear()
        try:
            raw = np.frombuffer(archive.read(f"{folder}data/{storage.key}"), np.uint8)
            values = raw[: storage.size].view(storage.dtype)
        except ZIP_ERRORS as error:
            raise UserError(f"{path}: {name} is damaged ({first_line(error)}); fetch the file again") from error
        if values.size != storage.count:
            raise UserError(f"{path}: the numbers of {name} are cut off; fetch the file again")
        if is_shared:
            kept[storage.key] = values
        return values

    def read(name: str) -> np.ndarray:
        tensor = tensors[name]
        if 0 in tensor.shape:
            return np.empty(tensor.shape, tensor.storage.dtype)
        raw = numbers(name, tensor.storage, math.prod(tensor.shape) < tensor.storage.count)
        # An axis of length 1 may have any stride.
        steps = [0 if n == 1 else step * raw.itemsize for n, step in zip(tensor.shape, tensor.strides, strict=True)]
        return np.lib.stride_tricks.as_strided(raw[tensor.offset :], tensor.shape, steps, writeable=False)

    return {name: tensor.shape for name, tensor in tensors.items()}, read


def _check_bounds(path: Path, name: str, tensor: _Tensor, folder: str, members: dict[str, zipfile.ZipInfo]) -> None:
    """Checks that a tensor lies within its storage, and the storage within the file."""
    storage = tensor.storage
    member = members.get(f"{folder}data/{storage.key}")
    if member is None or storage.count < 0 or member.file_size < storage.size:
        raise UserError(f"{path}: the numbers of {name} are missing or cut off; fetch it again")
    numbers = (tensor.offset, *tensor.shape, *tensor.strides)
    are_counts = all(type(number) is int and number >= 0 for number in numbers)
    # NumPy counts the bytes of empty arrays too, without the axes of length 0.
    count = math.prod(n or 1 for n in tensor.shape) if are_counts else 0
    if (
        not are_counts
        or len(tensor.shape) != len(tensor.strides)
        or len(tensor.shape) > _MAX_AXES
        or count > _MAX_NUMBERS
    ):
        raise UserError(f"{path}: {name} has an impossible shape; the file is damaged")
    if 0 in tensor.shape:
        return
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if last >= storage.count or count > storage.count:
        raise UserError(f"{path}: {name} reaches beyond its numbers; the file is damaged")


def _collect_tensors(value: Any, prefix: str, tensors: dict[str, _Tensor], seen: set[int]) -> None:
    """Collects the tensors in nested dicts and modules; names are joined by dots."""
    if len(prefix) > _MAX_NAME_LENGTH:
        raise _Refused(f"has a name of more than {_MAX_NAME_LENGTH} characters")
    value = value.state if isinstance(value, _Record) else value
    if isinstance(value, _Tensor):
        tensors[prefix] = value
    elif isinstance(value, dict) and id(value) not in seen:
        seen.add(id(value))
        for key, item in value.items():
            if isinstance(key, str):
                _collect_tensors(item, f"{prefix}.{key}" if prefix else key, tensors, seen)


# -- the stack machine -------------------------------------------------------------------------------------------------

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _interpret(program: bytes, is_jit: bool) -> dict[str, _Tensor]:
    """Reads a pickle into plain containers and descriptions of tensors, and collects the latter.

    Raises:
      _Refused: it asks for anything else.
    """
    try:
        tensors: dict[str, _Tensor] = {}
        _collect_tensors(_Machine(is_jit).run(program), "", tensors, set())
        return tensors
    except _Refused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, RecursionError, OverflowError, AttributeError) as error:
        raise _Refused(f"is damaged ({type(error).__name__})") from error


class _Machine:
    """Time and memory grow with the program's length: nothing is copied but what the program itself wrote."""

    def __init__(self, is_jit: bool):
        self.is_jit = is_jit
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        memo = self.memo
        for opcode, argument, _ in pickletools.genops(program):
            name, stack = opcode.name, self.stack
            if name in ("PROTO", "FRAME"):
                continue
            if name == "STOP":
                return stack.pop()
            if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                stack.append(argument)
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in _TUPLES:
                items = [stack.pop() for _ in range(_TUPLES[name])]
                stack.append(tuple(items[::-1]))
            elif name == "MARK":
                self.below.append(stack)
                self.stack = []
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[_expect(argument, int)] = stack[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[_expect(argument, int)])
            else:
                self._build(name, argument)
        raise _Refused("has no end")

    def _build(self, name: str, argument: Any) -> None:
        if name in ("TUPLE", "LIST", "DICT"):
            items = self._since_mark()
            self.stack.append({"TUPLE": tuple, "LIST": list, "DICT": _pairs}[name](items))
        elif name in ("APPENDS", "SETITEMS"):
            items = self._since_mark()
            if name == "APPENDS":
                _expect(self.stack[-1], list).extend(items)
            else:
                _expect(self.stack[-1], dict).update(_pairs(items))
        else:
            self._build_one(name, argument, self.stack)

    def _build_one(self, name: str, argument: Any, stack: list[Any]) -> None:
        if name == "APPEND":
            item = stack.pop()
            _expect(stack[-1], list).append(item)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            _expect(stack[-1], dict).update(_pairs([key, value]))
        elif name == "GLOBAL":
            stack.append(self._global(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = _expect(stack.pop(), str), _expect(stack.pop(), str)
            stack.append(self._global(f"{module} {attribute}"))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(_reduce(stack.pop(), arguments))
        elif name == "NEWOBJ":
            stack.pop()
            if not _is_class(stack.pop()):
                raise _Refused("makes an object that is not a TorchScript module")
            stack.append(_Record())
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], _Record) and isinstance(state, dict):
                stack[-1].state = state
            elif not isinstance(stack[-1], dict):  # an OrderedDict's attributes, such as _metadata, are dropped
                raise _Refused("sets the state of an object")
        elif name == "POP":
            stack.pop()
        else:
            raise _Refused(f"uses {name}")

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _global(self, name: str) -> _Global:
        if name in _ALLOWED or (self.is_jit and name.startswith("__torch__")):
            return _Global(name)
        raise _Refused(f"names {name.replace(' ', '.')}")


def _is_class(value: Any) -> bool:
    return isinstance(value, _Global) and value.name.startswith("__torch__")


def _expect(value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise _Refused("is damaged")
    return value


def _axes(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > _MAX_AXES:
        raise _Refused("has a shape that no tensor has")
    return tuple(value)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(key, (str, int, float, bytes, type(None))) for key in items[::2]):
        raise _Refused("has a key that is neither a string nor a number")  # hashing a nest of tuples may take forever
    return dict(zip(items[::2], items[1::2], strict=True))


def _storage(identity: Any) -> _Storage:
    kind, storage, key, _, count = _expect(identity, tuple)[:5]
    name = storage.name.removeprefix("torch ") if isinstance(storage, _Global) else ""
    if kind != "storage" or name not in _STORAGES or not isinstance(key, str) or type(count) is not int:
        raise _Refused("refers to something other than a tensor's numbers")
    return _Storage(key, _STORAGES[name], count)


def _reduce(function: Any, arguments: Any) -> Any:
    """What a call would give, for the few functions that describe tensors and containers."""
    name = function.name if isinstance(function, _Global) else ""
    _expect(arguments, tuple)
    if name in _REBUILD_TENSOR:
        storage, offset, shape, strides = arguments[:4]
        return _Tensor(_expect(storage, _Storage), offset, _axes(shape), _axes(strides))
    if name == _REBUILD_PARAMETER:
        return _expect(arguments[0], _Tensor)
    if name == _ORDERED_DICT:
        if arguments:  # a pickle of Python 3 sets the items afterwards
            raise _Refused("makes an OrderedDict of something")
        return {}
    if name == _SIZE:
        return _axes(arguments[0])
    if name in _TYPED_LISTS or name == _TAG:
        return arguments[0]
    raise _Refused("calls something that is not a tensor's")
