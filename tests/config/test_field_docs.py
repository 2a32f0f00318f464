"""Every field of a config has a line of documentation."""

import dataclasses

import pytest

from mmjax.config import kinds, schema, typed_groups
from mmjax.config.field_docs import field_docs
from mmjax.models.fusion.config import AudioEncoderConfig, ImageEncoderConfig


def classes(cls):
    yield cls
    for expected in typed_groups.field_types(cls).values():
        inner = typed_groups.group_class(expected)
        if inner is not None:
            yield from classes(inner)


ALL = {cls for base in (schema.RunConfig, kinds.DECODERS["lstm"]) for cls in classes(base)}
ALL |= {inner for base in kinds.KINDS for cls in kinds.classes(base).values() for inner in classes(cls)}


@pytest.mark.parametrize("cls", sorted(ALL, key=lambda cls: cls.__name__), ids=lambda cls: cls.__name__)
def test_every_field_has_a_line(cls):
    docs = field_docs(cls)
    for field in dataclasses.fields(cls):
        assert docs[field.name] and "\n" not in docs[field.name]


def test_a_field_that_is_declared_again_has_the_new_line():
    assert field_docs(AudioEncoderConfig)["patch_size"] == "frames and mel bins of a patch"
    assert field_docs(ImageEncoderConfig)["patch_size"] == "pixels of a side of a patch"
