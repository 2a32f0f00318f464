"""A reader of tf.train.Example protos by protobuf, without TensorFlow.

The messages are `Example {Features features = 1}`, `Features {map<string, Feature> feature = 1}`,
`Feature {oneof {BytesList = 1, FloatList = 2, Int64List = 3}}`, each list with `repeated value = 1`
(tensorflow/core/example/feature.proto).
"""

from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message, message_factory

Feature = list[bytes] | list[int] | np.ndarray


def _field(name: str, number: int, kind: str, **settings) -> dict:
    """A field of a message; of the type TYPE_`kind`, or of our message `kind`."""
    of = {"type": f"TYPE_{kind}"} if kind.isupper() else {"type": "TYPE_MESSAGE", "typeName": f".mmjax.{kind}"}
    return {"name": name, "number": number, "label": "LABEL_OPTIONAL", **of, **settings}


def _make_message_class() -> Any:
    """The class of Example, whose fields only its descriptor tells: no type checker can see them."""
    lists = {"BytesList": "BYTES", "FloatList": "FLOAT", "Int64List": "INT64"}
    kinds = [_field(name, number, name, oneofIndex=0) for number, name in enumerate(lists, 1)]
    entry = {"name": "Entry", "field": [_field("key", 1, "STRING"), _field("value", 2, "Feature")]}
    entries = _field("feature", 1, "Features.Entry", label="LABEL_REPEATED")
    messages = [
        *({"name": n, "field": [_field("value", 1, t, label="LABEL_REPEATED")]} for n, t in lists.items()),
        {"name": "Feature", "field": kinds, "oneofDecl": [{"name": "kind"}]},
        {"name": "Features", "field": [entries], "nestedType": [entry | {"options": {"mapEntry": True}}]},
        {"name": "Example", "field": [_field("features", 1, "Features")]},
    ]
    file = {"name": "mmjax/example.proto", "package": "mmjax", "syntax": "proto3", "messageType": messages}
    # A pool for itself: TensorFlow registers the same messages in the process's.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(json_format.ParseDict(file, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("mmjax.Example"))


_Example = _make_message_class()


def parse_example(data: bytes) -> dict[str, Feature]:
    """Reads a serialized tf.train.Example.

    Returns:
      Values by feature: a list of bytes, a list of ints, or float32 [N]; an empty list where a feature has no values.

    Raises:
      ValueError: on bytes that are no such proto.
    """
    try:
        example = _Example.FromString(data)
    except message.DecodeError as error:
        raise ValueError(str(error)) from error
    return {key: _values(feature) for key, feature in example.features.feature.items()}


def _values(feature: message.Message) -> Feature:
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    return np.asarray(values, np.float32) if kind == "FloatList" else list(values)
