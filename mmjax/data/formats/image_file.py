"""Image files: their suffixes, and their bytes."""

from mmjax.data.bad_example import BadExample
from mmjax.io.patterns import reason
from mmjax.io.reader import Reader

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


def read_image(reader: Reader, path: str) -> bytes:
    """Returns an image file's contents.

    Raises:
      OSError: it is not there, or cannot be read.
      BadExample: `read`, where the path is of a kind that nothing here can read.
    """
    try:
        return reader.read(path)
    except (ValueError, ImportError) as error:  # a scheme that is unknown, or whose package is missing
        raise BadExample("read", f"{path!r}: {reason(error)}") from error
