"""NumPy's .npy files: arrays of numbers; what would need a pickle is refused."""

import io
import math

import numpy as np

from mmjax.data.bad_example import BadExample
from mmjax.utils.python_literals import PARSING


def read_npy(data: bytes) -> np.ndarray:
    """Reads the array of an .npy file.

    Returns:
      The array; of numbers or truth values, in the machine's byte order.

    Raises:
      BadExample: `empty` for no bytes; `not_media` for what is no .npy file; `corrupt` for one of Python objects, texts
        or records, or one that does not hold as many bytes as its header says.
    """
    if not data:
        raise BadExample("empty", "a file of zero bytes")
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
    except ValueError as error:
        raise BadExample("not_media", f"{len(data)} bytes that are no .npy file") from error
    try:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        with PARSING:
            shape, fortran, dtype = read(file)
    except Exception as error:  # a header is a text of Python
        raise BadExample("corrupt", f"the header of an .npy file: {type(error).__name__}") from error
    if dtype.kind not in "biufc":
        raise BadExample("corrupt", f"an .npy file of {dtype}, which is not read; save an array of numbers")
    size, rest = math.prod(shape) * dtype.itemsize, len(data) - file.tell()
    if min(shape, default=0) < 0 or size != rest:  # NumPy would make room for what the header says
        raise BadExample("corrupt", f"an .npy file of {list(shape)} {dtype} holds {rest} bytes, not {size}")
    array = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="))
