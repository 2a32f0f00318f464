"""Named arrays in files, read one by one: safetensors (in shards too), NumPy's .npz and PyTorch's .bin and .pt.

A reader lists shapes without reading numbers, so that a whole checkpoint is checked before any of it is loaded.
"""

import json
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors

from mmjax.errors import UserError
from mmjax.interop import torch_file
from mmjax.interop.torch_file import ZIP_ERRORS, first_line
from mmjax.utils.python_literals import PARSING

WEIGHTS = (".safetensors", ".npz", ".bin", ".pt", ".pth", ".ckpt")
# What parameters are made of. Integers and eight-bit floats are quantised: without their scales they mean nothing.
_PARAM_DTYPES = {np.dtype(kind) for kind in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)}
_LFS_POINTER = b"version https://git-lfs"
_MAX_LAYERS = 1_000


class Tensors(Mapping[str, tuple[int, ...]]):
    """Shapes by name; `read` gives the numbers.

    Args:
      path: what messages call it.
      shapes: of every array.
      read: reads one array, in any floating-point type.
    """

    def __init__(self, path: Any, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], np.ndarray]):
        self.path = path
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._read = read

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def read(self, name: str) -> np.ndarray:
        """Reads one array as float32.

        Raises:
          UserError: the file is cut off, or the array holds something other than floating-point numbers.
        """
        array = self._read(name)
        if array.dtype not in _PARAM_DTYPES:
            raise UserError(
                f"{self.path}: {name} holds {array.dtype}, and parameters are floating-point numbers; quantised"
                " weights are not read"
            )
        return np.asarray(array, dtype=np.float32)

    def are_equal(self, first: str, second: str) -> bool:
        """Whether two arrays have the same shape and numbers."""
        return self[first] == self[second] and np.array_equal(self._read(first), self._read(second))

    def renamed(self, rename: Callable[[str], str | None]) -> "Tensors":
        """The same arrays under other names; those renamed to None are left out."""
        names = {new: old for old in self for new in [rename(old)] if new is not None}
        shapes = {new: self[old] for new, old in names.items()}
        return Tensors(self.path, shapes, lambda name: self._read(names[name]))


def open_tensors(path: Path) -> Tensors:
    """Opens a file of weights by its ending; nothing in it is executed.

    Raises:
      UserError: the file is missing, damaged, of an unknown kind or names what is not allowed.
    """
    if not path.is_file():
        problem = "is a pipe, a device or a socket, and no file" if path.exists() else "there is no such file"
        raise UserError(f"{path}: {problem}")
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError(f"{path}: a pointer of Git LFS in place of the weights; fetch them with `git lfs pull`")
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    kind = path.suffix
    if kind == ".safetensors":
        return _open_safetensors(path)
    if kind == ".npz":
        return _open_npz(path)
    if kind in (".bin", ".pt", ".pth", ".ckpt"):
        return Tensors(path, *torch_file.open_file(path))
    raise UserError(f"{path}: {kind or 'no ending'} is not a format of weights; give one of: {', '.join(WEIGHTS)}")


def _open_safetensors(path: Path) -> Tensors:
    try:
        file = safetensors.safe_open(path, framework="np")
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  no mapping
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({first_line(error)}); fetch it again") from error

    def read(name):
        try:
            return file.get_tensor(name)
        except Exception as error:  # a type that numpy lacks
            raise UserError(f"{path}: {name} cannot be read ({first_line(error)})") from error

    return Tensors(path, shapes, read)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Raises:
      UserError: it does not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: not JSON ({str(error).splitlines()[0]}); fetch it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a config, which is a JSON object")
    return content


def _open_shards(path: Path) -> Tensors:
    """A checkpoint in several files, with `model.safetensors.index.json` (or PyTorch's) saying what is where."""
    file_of_tensor = read_json(path).get("weight_map")
    if not isinstance(file_of_tensor, dict) or not all(isinstance(shard, str) for shard in file_of_tensor.values()):
        raise UserError(f"{path}: not an index of weights, whose weight_map names a file for each; fetch it again")
    shards = {}
    for name in sorted(set(file_of_tensor.values())):
        if Path(name).name != name:
            raise UserError(f"{path}: names the file {name!r}, which is not beside it")
        shards[name] = open_tensors(path.parent / name)
    for name, shard in file_of_tensor.items():
        if name not in shards[shard]:
            raise UserError(f"{path}: {name} is not in {shard}; fetch both again")
    shapes = {name: shards[shard][name] for name, shard in file_of_tensor.items()}
    return Tensors(path, shapes, lambda name: shards[file_of_tensor[name]].read(name))


def _open_npz(path: Path) -> Tensors:
    try:
        archive = zipfile.ZipFile(path)
        shapes = {}
        for info in archive.infolist():
            with archive.open(info) as file:
                shape, dtype = _npy_header(file)
            if dtype.hasobject:
                raise UserError(f"{path}: {info.filename} holds Python objects, which are not read")
            if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize >= max(info.file_size, 1):
                raise UserError(f"{path}: {info.filename} has too few bytes for shape {list(shape)}; fetch it again")
            shapes[info.filename.removesuffix(".npy")] = shape
    except ZIP_ERRORS as error:
        raise UserError(f"{path}: not a whole .npz file ({first_line(error)}); fetch it again") from error

    def read(name):
        try:
            with PARSING, archive.open(f"{name}.npy") as file:
                return _numbers(np.lib.format.read_array(file, allow_pickle=False))
        except ZIP_ERRORS as error:
            raise UserError(f"{path}: {name} cannot be read ({first_line(error)}); fetch the file again") from error

    return Tensors(path, shapes, read)


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    if version[0] not in read_header:
        raise ValueError(f"version {version[0]} of .npy")
    with PARSING, warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy warns of headers that it has to guess
        shape, _, dtype = read_header[version[0]](file)
    return shape, dtype


def _numbers(array: np.ndarray) -> np.ndarray:
    """.npz files hold bfloat16 as two opaque bytes."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def unscanned(tensors: Tensors) -> Tensors:
    """big_vision's stacked layers, `encoderblock/NAME` with a leading axis, as `encoderblock_0/NAME` and so on."""
    names: dict[str, tuple[str, int | None]] = {}
    shapes = {}
    for name, shape in tensors.items():
        match = re.fullmatch(r"(.*/encoderblock)/(.*)", name)
        if not match or not shape:
            names[name], shapes[name] = (name, None), shape
            continue
        if shape[0] > _MAX_LAYERS:
            raise UserError(f"{tensors.path}: {name} has {shape[0]} layers, which no model has; the file is damaged")
        for layer in range(shape[0]):
            single = f"{match[1]}_{layer}/{match[2]}"
            names[single], shapes[single] = (name, layer), shape[1:]
    kept: dict[str, np.ndarray] = {}  # the stacks that are being taken apart, layer by layer

    def read(name):
        stack, layer = names[name]
        if layer is None:
            return tensors.read(stack)
        if stack not in kept:
            kept[stack] = tensors.read(stack)
        part = kept[stack][layer]
        if layer == tensors[stack][0] - 1:
            del kept[stack]
        return part

    return Tensors(tensors.path, shapes, read)
