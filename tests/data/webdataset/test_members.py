import json

import pytest

from mmjax.data.sources.wds import WebDataset
from mmjax.errors import UserError
from tests.helpers.tar_sets import example, options, write_tar


def write(folder, *orders, classes=False):
    """A tar for each order of the members of eight examples."""
    folder.mkdir(exist_ok=True)
    for number, order in enumerate(orders):
        members = [member for i in range(8) for member in example(8 * number + i)]
        if classes:
            members = [(name.replace("txt", "cls"), b"0" if "txt" in name else data) for name, data in members]
        write_tar(folder / f"{number:05d}.tar", order(members))
    return folder


def in_order(members):
    return members


def images_first(members):
    return sorted(members, key=lambda member: not member[0].endswith("jpg"))


@pytest.mark.parametrize("classes", [False, True])
def test_tars_with_all_images_before_all_texts_are_refused(tmp_path, classes):
    folder = write(tmp_path / "set", images_first, images_first, classes=classes)
    if classes:
        (folder / "classnames.txt").write_text("a\n")
    with pytest.raises(UserError) as error:
        WebDataset(str(folder), options=options(tmp_path))
    message = str(error.value)
    assert message.startswith(f"data.train='wds:{folder}'") and "\n" not in message
    assert all(word in message for word in ("examples have", "jpg", "an image and a text", "tar --sort=name"))


def test_without_an_index_the_remedy_is_the_same(tmp_path):
    folder = write(tmp_path / "set", lambda members: images_first(members)[:8])
    (folder / "sizes.json").write_text(json.dumps({"00000.tar": 16}))
    with pytest.raises(UserError, match=r"none has .*txt for captions.*tar --sort=name"):
        WebDataset(str(folder), options=options(tmp_path, order="windowed"))


def test_examples_that_lack_an_image_or_a_text_are_counted_at_the_start(tmp_path, caplog):
    WebDataset(str(write(tmp_path / "set", in_order, in_order)), options=options(tmp_path))
    assert not caplog.records
    folder = write(tmp_path / "mixed", in_order, images_first, lambda members: members[:-2])
    source = WebDataset(str(folder), options=options(tmp_path))
    (message,) = [record.getMessage() for record in caplog.records]
    lacking = len(source) - 15
    assert f"{lacking} of {len(source)} examples lack an image or a text" in message and lacking == 17
