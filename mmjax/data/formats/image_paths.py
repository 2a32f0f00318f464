"""Paths of images, as tables name them."""

import posixpath

IMAGE_COLUMNS = ("image", "filepath", "path", "file_name", "filename", "image_path")
IMAGES_OPTION = ",images="  # what names the folder of the images, after a table's path


def resolve_path(folder: str, image: str) -> str:
    """An image's full path; `folder` ends in a slash or is empty. An empty one stays empty."""
    if not image or "://" in image:
        return image
    path = image if image.startswith("/") else folder + image
    # Normalising all of a million paths would take as long as everything else.
    return posixpath.normpath(path) if "://" not in path and ("//" in path or "./" in path) else path
