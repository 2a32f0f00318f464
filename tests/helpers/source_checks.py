"""What holds of every source of files; used by their tests."""

import collections
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from mmjax.data.bad_example import REASONS, BadExample, reason_code
from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.example_transforms import PairTransform
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.source_protocols import Source
from mmjax.data.text.make_tokenizer import make_tokenizer


def png(value: int) -> bytes:
    """An encoded image all of whose samples are `value`, which no crop or resizing changes."""
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def train_examples(source, **options) -> TrainExamples:
    tokenizer = make_tokenizer("bytes", 8)
    options = {"transform": PairTransform(ImageSpec(size=4), tokenizer), **options}
    return TrainExamples([(source, 1)], seed=0, **options)


def check_source(source, values: list[int]) -> None:
    """Image i is `png(values[i])`; each comes once an epoch in every order; copies and threads see the same."""
    assert isinstance(source, Source)
    records = [source[i] for i in range(len(source))]
    assert [record["image"] for record in records] == list(map(png, values))
    assert source[-1] == records[-1]
    for order in ("global", "windowed"):
        examples = train_examples(source, order=order, window=2)
        for epoch in range(2):
            seen = [examples[epoch * len(source) + i]["image"] for i in range(len(source))]
            assert all(np.ptp(image) == 0 for image in seen)
            assert sorted(int(image[0, 0, 0]) for image in seen) == sorted(values)
    fresh = pickle.loads(pickle.dumps(source))  # a worker's: threads race to open its files
    indices = np.random.default_rng(0).integers(len(source), size=200).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert all(
            record == records[i] for i, record in zip(indices, pool.map(fresh.__getitem__, indices), strict=True)
        )


def reasons(source) -> list[str]:
    """Why each record cannot be had, or "ok"."""
    failures = []
    for index in range(len(source)):
        try:
            source[index]
            failures.append("ok")
        except (BadExample, OSError) as error:
            failures.append(REASONS[reason_code(error)])
    return failures


def count_substitutions(source, **options) -> collections.Counter:
    """How many of an epoch's examples had to be replaced, by reason."""
    examples = train_examples(source, **options)
    return collections.Counter(REASONS[examples[i]["substitution_reason"]] for i in range(len(source)))
