"""tf.train.Example written by TFDS's compiled protos, and ArrayRecord files of them."""

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto.tf_example_generated_pb2 import Example


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
