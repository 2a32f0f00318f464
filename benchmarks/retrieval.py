"""Time and peak memory of retrieval in both directions: mmjax's counting of ranks against sorting in NumPy.

  python benchmarks/retrieval.py                             25,000 captions of 5,000 images, width 512
  python benchmarks/retrieval.py --images=10000 --captions-per-image=100 --contenders=mmjax --rounds=1

`sort` holds the whole similarity matrix and sorts it along both axes, as is commonly done; it gives recalls, median
and mean rank. `mmjax` gives those and mean reciprocal rank and mean average precision. The recalls of both are
printed, to show that they solve one problem (`sort` leaves ties and float32's last bits to chance). Times are medians
of interleaved calls, `ratio` is to `sort`; memory is the peak of a process that does nothing else, less what it held
when its embeddings were there. One JSON line a measurement.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys

import common

from mmjax.cli import runtime
from mmjax.errors import validate_choice

CONTENDERS = ("sort", "mmjax")


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions-per-image", type=int, default=5)
    parser.add_argument("--width", type=int, default=512, help="of the embeddings")
    parser.add_argument("--likeness", type=float, default=0.15, help="of captions to their image; 0 = chance")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", default="", help="measure the memory of this contender in this process")
    return parser


def main():
    return runtime.run(make_parser(), None, measure)


def measure(options, overrides):
    """Prints time and memory of every contender."""
    common.refuse_config(overrides)
    names = [validate_choice("--contenders", name, CONTENDERS) for name in options.contenders.split(",")]
    common.require_positive(options, "images", "captions_per_image", "width", "rounds")
    if options.alone:
        print(json.dumps(alone(options)))
        return 0
    fields = dict(
        benchmark="retrieval",
        images=options.images,
        captions=options.images * options.captions_per_image,
        width=options.width,
        versions=common.versions("numpy", "mmjax"),
    )
    memory = {}
    for name in names:
        command = [sys.executable, *sys.argv, f"--alone={name}"]
        memory[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    times = {}
    if len(names) > 1:
        arrays = embeddings(options)
        calls = {name: lambda name=name: function(name)(*arrays) for name in names}
        seconds = common.interleaved(calls, rounds=options.rounds)
        base = statistics.median(seconds[names[0]])
        times = {
            name: common.spread(times) | {"ratio": statistics.median(times) / base} for name, times in seconds.items()
        }
    for name in names:
        common.emit(**fields, contender=name, **memory[name], **times.get(name, {}))
    return 0


def alone(options):
    """Seconds, gigabytes and recalls of one contender called once."""
    import time

    arrays = embeddings(options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    metrics = function(options.alone)(*arrays)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    recalls = {name: round(value, 5) for name, value in metrics.items() if name.endswith("recall@1")}
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return {
        "first_call_seconds": seconds,
        "peak_gb": peak / unit,
        "peak_above_input_gb": (peak - before) / unit,
    } | recalls


def embeddings(options):
    """Unit rows: images at random, each caption its image's plus noise."""
    import numpy as np

    rng = np.random.default_rng(0)

    def normalise(rows):
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    images = normalise(rng.standard_normal((options.images, options.width), dtype=np.float32))
    text_image = np.repeat(np.arange(options.images), options.captions_per_image)
    texts = normalise(rng.standard_normal((len(text_image), options.width), dtype=np.float32))
    for start in range(0, len(texts), 65536):
        texts[start : start + 65536] += options.likeness * images[text_image[start : start + 65536]]
    return images, normalise(texts), text_image


def function(name):
    """A contender: embeddings of images and texts and each text's image -> metrics."""
    if name == "sort":
        return sort
    from mmjax.evaluation.evaluators.retrieval import retrieval_metrics

    return retrieval_metrics


def sort(images, texts, text_image):
    """Retrieval as it is commonly computed."""
    import numpy as np

    scores = texts @ images.T
    image_ranks = 1 + (np.argsort(-scores, axis=1) == text_image[:, None]).argmax(axis=1)
    order = np.argsort(-scores.T, axis=1)
    text_ranks = 1 + (text_image[order] == np.arange(len(images))[:, None]).argmax(axis=1)
    metrics = {}
    for side, ranks in (("image", image_ranks), ("text", text_ranks)):
        metrics |= {f"{side}_retrieval_recall@{k}": float((ranks <= k).mean()) for k in (1, 5, 10)}
        metrics |= {f"{side}_retrieval_median_rank": np.median(ranks), f"{side}_retrieval_mean_rank": ranks.mean()}
    return metrics


if __name__ == "__main__":
    sys.exit(main())
