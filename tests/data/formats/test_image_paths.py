import pytest

from mmjax.data.bad_example import BadExample
from mmjax.data.formats.image_paths import read_listed_image, resolve_path
from mmjax.data.sources.karpathy import locate_images
from mmjax.errors import UserError
from mmjax.io.reader import Reader


class Everything(Reader):
    """A reader for which every path is there."""

    def read(self, path, *, limit=None):
        return path.encode()


def is_read(image, folder, allowed):
    path = resolve_path(folder, image)
    try:
        return read_listed_image(Everything(), path, folder, allowed) == path.encode()
    except BadExample as error:
        assert error.reason == "read" and "data.table_paths=" in error.detail
        return False


@pytest.mark.parametrize("folder", ["", "data/", "/data/", "gs://bucket/data/", "../data/"])
def test_a_table_names_what_it_may(folder):
    images = ["a.jpg", "x/a.jpg", "../a.jpg", "x/../../a.jpg", "/etc/passwd", "https://host/a.jpg", "gs://bucket/a.jpg"]
    names = lambda allowed: [image for image in images if is_read(image, folder, allowed)]
    assert names("any") == images
    assert names("folder") == ["a.jpg", "x/a.jpg"]
    if folder.startswith("gs://"):
        assert names("storage") == ["a.jpg", "x/a.jpg", "../a.jpg", "x/../../a.jpg", "gs://bucket/a.jpg"]
    else:
        assert names("storage") == ["a.jpg", "x/a.jpg", "../a.jpg", "x/../../a.jpg", "/etc/passwd"]


@pytest.mark.parametrize("image", ["zip://a::https://host/b", "s3://other/a.jpg", "a::https://host/x"])
def test_chains_of_urls_are_no_paths(image):
    assert not is_read(image, "data/", "storage") and not is_read(image, "gs://bucket/data/", "storage")


def test_lists_of_a_bucket_s_images_name_no_local_files():
    with pytest.raises(UserError, match="'/etc/passwd' is on another storage than gs://bucket/data"):
        locate_images(Everything(), ["a.jpg", "/etc/passwd"], ["gs://bucket/data"], "here", is_named=True)
