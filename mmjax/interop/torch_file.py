"""PyTorch's .pt and .bin files without PyTorch and without unpickling.

`torch.save` writes a zip archive: a pickle that describes the tensors (`torch_pickle` reads it), and one member of raw
bytes a storage.
"""

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmjax.errors import UserError
from mmjax.interop import torch_pickle

# What zipfile raises on damaged files: of the structure, of compression and encryption that it lacks, of the disk, of
# .npy headers inside.
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError),
    *(OSError, EOFError, ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError, Warning),
    *(SyntaxError, tokenize.TokenError),
)

_REMEDY = "save its state_dict as safetensors and load that"
_OLD_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of the format before PyTorch 1.6

_MAX_NUMBERS = 2**58


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
        tensors = torch_pickle.interpret(archive.read(main[0]), is_jit)
    except torch_pickle.Refused as error:
        raise UserError(f"{path}: refused, as its pickle {error}; nothing was executed; {_REMEDY}") from error
    except ZIP_ERRORS as error:
        raise UserError(f"{path}: damaged or cut off ({first_line(error)}); fetch it again") from error
    for name, tensor in tensors.items():
        _check_bounds(path, name, tensor, folder, members)

    kept: dict[str, np.ndarray] = {}  # the last storage that holds more than one tensor

    def numbers(name: str, storage: torch_pickle.Storage, is_shared: bool) -> np.ndarray:
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


def _check_bounds(
    path: Path, name: str, tensor: torch_pickle.Tensor, folder: str, members: dict[str, zipfile.ZipInfo]
) -> None:
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
        or len(tensor.shape) > torch_pickle.MAX_AXES
        or count > _MAX_NUMBERS
    ):
        raise UserError(f"{path}: {name} has an impossible shape; the file is damaged")
    if 0 in tensor.shape:
        return
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    if last >= storage.count or count > storage.count:
        raise UserError(f"{path}: {name} reaches beyond its numbers; the file is damaged")
