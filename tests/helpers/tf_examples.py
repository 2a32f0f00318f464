"""tf.train.Example written by google.protobuf, from its definition, and ArrayRecord files of them."""

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto


def _make_message():
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="tests", syntax="proto3")

    def message(parent, name, *fields):
        made = parent.add(name=name)
        for field, number, kind, label, of in fields:
            made.field.add(name=field, number=number, type=kind, label=label, type_name=of)
        return made

    one, many = _Field.LABEL_OPTIONAL, _Field.LABEL_REPEATED
    for name, kind in (("Bytes", _Field.TYPE_BYTES), ("Float", _Field.TYPE_FLOAT), ("Int64", _Field.TYPE_INT64)):
        message(file.message_type, f"{name}List", ("value", 1, kind, many, None))
    feature = message(
        file.message_type,
        "Feature",
        *(
            (f"{name.lower()}_list", number, _Field.TYPE_MESSAGE, one, f".tests.{name}List")
            for number, name in enumerate(("Bytes", "Float", "Int64"), start=1)
        ),
    )
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message(
        file.message_type,
        "Features",
        ("feature", 1, _Field.TYPE_MESSAGE, many, ".tests.Features.FeatureEntry"),
    )
    entry = message(
        features.nested_type,
        "FeatureEntry",
        ("key", 1, _Field.TYPE_STRING, one, None),
        ("value", 2, _Field.TYPE_MESSAGE, one, ".tests.Feature"),
    )
    entry.options.map_entry = True
    message(file.message_type, "Example", ("features", 1, _Field.TYPE_MESSAGE, one, ".tests.Features"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tests.Example"))


Example = _make_message()


def serialize(features: dict) -> bytes:
    """Bytes, texts, ints, floats, or lists of one of them, by feature."""
    example = Example()
    for key, value in features.items():
        feature = example.features.feature[key]
        values = value if isinstance(value, list | np.ndarray) else [value]
        if len(values) == 0:
            continue
        if isinstance(values[0], bytes | str):
            feature.bytes_list.value.extend(v.encode() if isinstance(v, str) else v for v in values)
        elif isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        else:
            feature.float_list.value.extend(values)
    return example.SerializeToString()


def write_records(path, records: list[bytes], group_size: int = 1) -> None:
    writer = ArrayRecordWriter(str(path), f"group_size:{group_size}")
    for record in records:
        writer.write(record)
    writer.close()
