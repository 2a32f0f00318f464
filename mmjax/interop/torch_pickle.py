"""The pickle in a file of `torch.save`, read without unpickling.

The pickle is a program for a stack machine. Here it is read, opcode by opcode, by an interpreter that can only build
dicts, lists, tuples, numbers, strings and descriptions of tensors: it looks up no name and calls nothing, and a
pickle that wants anything else is refused. What trainers save beside a model (arguments, scores) is kept as objects of
which nothing is known. TorchScript archives, as OpenAI published its weights, have the same pickle with objects of
their own classes, which are kept as plain records.
"""

import dataclasses
import pickletools
from typing import Any, TypeVar

import ml_dtypes
import numpy as np

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
MAX_AXES = 32
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
# What trainers save beside a model: it is neither made nor looked at.
_BESIDE = {"argparse Namespace", "_codecs encode", "builtins set", "__builtin__ set", "torch device"}
_BESIDE |= {f"pathlib {name}" for name in ("PosixPath", "PurePosixPath")} | {"pathlib._local PosixPath"}
_BESIDE |= {f"torch {name}" for name in ("float32", "float16", "bfloat16", "float64", "int64")}
_BESIDE |= {"numpy dtype", "numpy ndarray", "torch torch_version.TorchVersion", "torch.torch_version TorchVersion"}
_BESIDE |= {f"collections {name}" for name in ("defaultdict", "Counter", "deque")} | {"types SimpleNamespace"}
_BESIDE |= {f"datetime {name}" for name in ("datetime", "timedelta", "date", "timezone")}
_BESIDE |= {f"pathlib {name}" for name in ("WindowsPath", "PureWindowsPath", "Path")}
_BUILTINS = ("complex", "slice", "frozenset", "int", "long", "float", "str", "list", "dict")
_BESIDE |= {f"{module} {name}" for module in ("builtins", "__builtin__") for name in _BUILTINS}
_BESIDE |= {f"numpy.{core}.multiarray {name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")}
_ALLOWED |= _BESIDE


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name that a pickle mentions; nothing is ever looked up under it."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """Raw numbers in a member of the archive."""

    key: str
    dtype: Any
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view of a storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Beside:
    """An object that lies beside a model: nothing of it is kept."""


class _Record:
    """An object of a TorchScript class: its fields."""

    def __init__(self):
        self.state: dict[Any, Any] = {}


_T = TypeVar("_T")


class Refused(Exception):
    """A pickle that wants something other than tensors in plain containers."""


def _collect_tensors(value: Any, prefix: str, tensors: dict[str, Tensor], seen: set[int]) -> None:
    """Collects the tensors in nested dicts and modules; names are joined by dots."""
    if len(prefix) > _MAX_NAME_LENGTH:
        raise Refused(f"has a name of more than {_MAX_NAME_LENGTH} characters")
    value = value.state if isinstance(value, _Record) else value
    if isinstance(value, Tensor):
        tensors[prefix] = value
    elif isinstance(value, dict) and id(value) not in seen:
        seen.add(id(value))
        for key, item in value.items():
            if isinstance(key, str):
                _collect_tensors(item, f"{prefix}.{key}" if prefix else key, tensors, seen)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": _Beside}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def interpret(program: bytes, is_jit: bool) -> dict[str, Tensor]:
    """Reads a pickle into plain containers and descriptions of tensors, and collects the latter.

    Raises:
      Refused: it asks for anything else.
    """
    try:
        tensors: dict[str, Tensor] = {}
        _collect_tensors(_Machine(is_jit).run(program), "", tensors, set())
        return tensors
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, RecursionError, OverflowError, AttributeError) as error:
        raise Refused(f"is damaged ({type(error).__name__})") from error


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
        raise Refused("has no end")

    def _build(self, name: str, argument: Any) -> None:
        if name in ("TUPLE", "LIST", "DICT"):
            items = self._since_mark()
            self.stack.append({"TUPLE": tuple, "LIST": list, "DICT": _pairs}[name](items))
        elif name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            items = self._since_mark()
            if isinstance(self.stack[-1], _Beside):  # of which nothing is kept
                return
            if name == "APPENDS":
                _expect(self.stack[-1], list).extend(items)
            else:
                _expect(self.stack[-1], dict).update(_pairs(items))
        elif name == "FROZENSET":
            self._since_mark()
            self.stack.append(_Beside())
        else:
            self._build_one(name, argument, self.stack)

    def _build_one(self, name: str, argument: Any, stack: list[Any]) -> None:
        if name == "APPEND":
            item = stack.pop()
            _expect(stack[-1], list).append(item)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            if not isinstance(stack[-1], _Beside):
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
            made = stack.pop()
            if not _is_class(made) and not _is_beside(made):
                raise Refused("makes an object that is not a TorchScript module")
            stack.append(_Record() if _is_class(made) else _Beside())
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(stack[-1], _Record) and isinstance(state, dict):
                stack[-1].state = state
            # An OrderedDict's attributes, such as _metadata, are dropped.
            elif not isinstance(stack[-1], dict | _Beside):
                raise Refused("sets the state of an object")
        elif name == "POP":
            stack.pop()
        else:
            raise Refused(f"uses {name}")

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _global(self, name: str) -> _Global:
        if name in _ALLOWED or (self.is_jit and name.startswith("__torch__")):
            return _Global(name)
        raise Refused(f"names {name.replace(' ', '.')}")


def _is_class(value: Any) -> bool:
    return isinstance(value, _Global) and value.name.startswith("__torch__")


def _is_beside(value: Any) -> bool:
    return isinstance(value, _Global) and value.name in _BESIDE


def _expect(value: Any, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise Refused("is damaged")
    return value


def _axes(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_AXES:
        raise Refused("has a shape that no tensor has")
    return tuple(value)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if not all(isinstance(key, (str, int, float, bytes, type(None))) for key in items[::2]):
        raise Refused("has a key that is neither a string nor a number")  # hashing a nest of tuples may take forever
    return dict(zip(items[::2], items[1::2], strict=True))


def _storage(identity: Any) -> Storage:
    kind, storage, key, _, count = _expect(identity, tuple)[:5]
    name = storage.name.removeprefix("torch ") if isinstance(storage, _Global) else ""
    if kind != "storage" or name not in _STORAGES or not isinstance(key, str) or type(count) is not int:
        raise Refused("refers to something other than a tensor's numbers")
    return Storage(key, _STORAGES[name], count)


def _reduce(function: Any, arguments: Any) -> Any:
    """What a call would give, for the few functions that describe tensors and containers."""
    name = function.name if isinstance(function, _Global) else ""
    _expect(arguments, tuple)
    if name in _BESIDE:
        return _Beside()
    if name in _REBUILD_TENSOR:
        storage, offset, shape, strides = arguments[:4]
        return Tensor(_expect(storage, Storage), offset, _axes(shape), _axes(strides))
    if name == _REBUILD_PARAMETER:
        return _expect(arguments[0], Tensor)
    if name == _ORDERED_DICT:
        if arguments:  # a pickle of Python 3 sets the items afterwards
            raise Refused("makes an OrderedDict of something")
        return {}
    if name == _SIZE:
        return _axes(arguments[0])
    if name in _TYPED_LISTS or name == _TAG:
        return arguments[0]
    raise Refused("calls something that is not a tensor's")
