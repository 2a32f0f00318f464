from mmjax.training import data_summary


def test_a_batch_larger_than_a_source_is_noted():
    components = [{"source": "a", "weight": 3, "examples": 6}, {"source": "b", "weight": 1, "examples": 2}]
    assert list(data_summary.note_large_batch(components, 8)) == []
    (note,) = data_summary.note_large_batch([components[0], components[1] | {"examples": 1}], 8)
    assert note.startswith("note: a batch of 8 has 2 examples of b, which has 1: ")


def test_sources_examples_and_epochs_are_described():
    components = [{"source": "a", "weight": 3, "examples": 6}, {"source": "b", "weight": 1, "examples": 2}]
    assert list(data_summary.describe_data(components, 10, 8)) == [
        "training: 10 steps of 8 examples: 80 examples",
        "  a: 6 examples, 75% of the examples; 10 epochs",
        "  b: 2 examples, 25% of the examples; 10 epochs",
    ]
