import jax
import numpy as np

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


def test_the_memory_of_batches_on_the_host_is_told():
    """64 clips of 16 x 224 x 224 are 154 MB."""
    shape = lambda *sizes, dtype=np.uint8: jax.ShapeDtypeStruct(sizes, dtype)
    batch = {"text": shape(64, 77, dtype=np.int32), "video": shape(64, 16, 224, 224, 3)}
    sizes = data_summary.host_bytes(batch, 1)
    assert sizes == {"video": 64 * 16 * 224 * 224 * 3, "text": 64 * 77 * 4} and list(sizes) == ["video", "text"]
    assert data_summary.describe_host_memory(sizes, 2) == (
        "a batch on the host of each process: 154.16 MB (video 154.14 MB, text 19.71 kB); data.prefetch=2 keeps"
        " 308.32 MB ready"
    )
    assert data_summary.host_bytes(batch, 4)["video"] == sizes["video"] // 4
    assert "prefetch" not in data_summary.describe_host_memory(sizes, 0)
