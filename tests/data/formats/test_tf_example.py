import numpy as np
import pytest

from mmjax.data.formats.tf_example import parse_example
from tests.helpers.tf_examples import Example, serialize


def random_features(rng) -> dict:
    features = {}
    for i in range(rng.integers(6)):
        n = int(rng.integers(5))
        features[f"{'größe/零'[: rng.integers(8)]}{i}"] = [
            [bytes(rng.integers(0, 256, rng.integers(400), np.uint8)) for _ in range(n)],
            [int(v) for v in rng.integers(-(2**63), 2**63 - 1, n)] + [0, -1, 2**63 - 1, -(2**63)],
            rng.normal(size=n).astype(np.float32),
        ][rng.integers(3)]
    return features


def test_examples_are_read_as_protobuf_wrote_them():
    rng = np.random.default_rng(0)
    for _ in range(200):
        features = random_features(rng)
        parsed = parse_example(serialize(features))
        assert parsed.keys() == features.keys()
        assert all(np.array_equal(parsed[key], features[key]) for key in features)


def test_parts_of_messages_are_joined_and_unknown_fields_passed_over():
    first, second = serialize({"a": [1, 2], "b": "x"}), serialize({"c": [0.5], "b": "y"})
    other = b"\x78\x05" + b"\x7a\x03abc" + b"\x7d1234" + b"\x7912345678"  # fields 15 of each wire type
    merged = Example.FromString(first + other + second)
    parsed = parse_example(first + other + second)
    assert parsed.keys() == set(merged.features.feature) and parsed["b"] == [b"y"] and parsed["a"] == [1, 2]
    # Numbers that are not packed, as proto2 writes them: one field each.
    plain = b"\x0a\x10\x0a\x0e\x0a\x01n\x12\x09\x1a\x07\x08\x05\x08\x80\x80\x80\x01"
    assert list(Example.FromString(plain).features.feature["n"].int64_list.value) == parse_example(plain)["n"]


def test_damaged_protos_are_refused_or_read_as_protobuf_reads_them():
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(3000):
        data = bytearray(serialize({"image": bytes(50), "n": [1, 2**40], "f": [0.5, 2.0], "text": "a dog"}))
        if rng.random() < 0.5:
            del data[rng.integers(len(data)) :]
        else:
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            parsed = parse_example(bytes(data))
        except ValueError:
            refused += 1
            continue
        example = Example.FromString(bytes(data))
        for key, feature in example.features.feature.items():
            kind = feature.WhichOneof("kind")
            values = list(getattr(feature, kind).value) if kind else []
            assert np.array_equal(parsed[key], values, equal_nan=kind == "float_list"), (data, key)
    assert refused > 1000


@pytest.mark.parametrize("data", [b"hello world", b"\x0a\xff", b"\x00", b"\xff" * 11, b"\x0a\x03\x0a\x05x"])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError):
        parse_example(data)
