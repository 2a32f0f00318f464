"""Images per second of the input pipeline from tars of JPEGs, beside open_clip's and beside the limit.

  python benchmarks/loader.py                                256-px and 1024-px JPEGs, 2 workers each
  python benchmarks/loader.py --sizes=256 --memory=50000     memory of all processes while so many images go by
  python benchmarks/loader.py --index=100000000              opening an index of so many examples

Contenders, all reading the same generated tars (1/f noise, JPEG quality 95, a caption each), with the same number of
worker processes, batch size, output size and crop (90 to 100 % of the area, ratio 3/4 to 4/3):
  mmjax           the trainer's own pipeline, in global order: uint8 batches and token ids
  mmjax, no draft the same, with libjpeg's scaled decoding off
  limit           a bare loop in as many processes: bytes in memory -> mmjax's decode and crop, nothing else
  peer            webdataset and torch's DataLoader, wired as open_clip does. The image transforms are torchvision's
                  where that imports; elsewhere the same operations in Pillow and torch, which is then our imitation,
                  and the line says so. Texts are tokenised by mmjax's tokenizer in both. Needs torch and webdataset.
Every contender runs in a process of its own, in turns, `--rounds` times, with warm-up outside of the clock. Reported
are medians, and the median of the rounds' ratios to the peer and to the limit. One JSON line a measurement. What one
core makes of JPEGs where the host or the device resizes is measured by decoding.py.
"""

import argparse
import importlib
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from PIL import Image

from mmjax.cli import runtime
from mmjax.errors import UserError, validate_choice

CONTENDERS = ("mmjax", "mmjax, no draft", "limit", "peer")
SHARDS = 8
CAPTION = "a photograph of something that 1/f noise brought to mind, number {}"
# open_clip's buffer gives nothing before it holds so many samples, and then grows to 5,000; here it stays, so that the
# peer is not charged for filling it.
_SHUFFLED = 1000


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="256,1024", help="sides of the JPEGs in pixels")
    parser.add_argument("--images", type=int, default=1024, help="images in the tars of each size")
    parser.add_argument("--timed", type=int, default=2048, help="images a round")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--output-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", default=";".join(CONTENDERS), help="joined by ';'")
    parser.add_argument("--memory", type=int, default=0, metavar="IMAGES", help="measure memory instead of time")
    parser.add_argument("--index", type=int, default=0, metavar="EXAMPLES", help="measure how long an index opens")
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help="where the tars are made; a temporary folder by default")
    return parser


def main():
    return runtime.run(make_parser(), None, measure)


def measure(options, overrides):
    """Makes the tars, then runs the contenders in turns."""
    common.refuse_config(overrides)
    names = [validate_choice("--contenders", name.strip(), CONTENDERS) for name in options.contenders.split(";")]
    if options.child:
        run_child(options)
        return 0
    if options.index:
        index_times(options.index)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        for size in map(int, options.sizes.split(",")):
            folder = Path(options.folder or temporary) / str(size)
            make_tars(folder, size, options.images)
            rounds = {name: [] for name in names}
            for _ in range(1 if options.memory else options.rounds):
                for name in names:
                    rounds[name].append(run(options, name, folder))
            for name, results in rounds.items():
                report(options, size, name, results, rounds)
    return 0


def report(options, size, name, results, rounds):
    """Prints a contender's line."""
    settings = {"contender": name, "jpeg": size, "workers": options.workers, "batch": options.batch}
    if options.memory:
        common.emit(benchmark="loader memory", **settings, **results[0], **common.versions("mmjax", "webdataset"))
        return
    rates = [result["images_per_second"] for result in results]
    line = {"images_per_second": statistics.median(rates), "lowest": min(rates), "highest": max(rates)}
    for other in ("peer", "limit"):
        if other in rounds and other != name:
            pairs = zip(rates, (result["images_per_second"] for result in rounds[other]), strict=True)
            line[f"ratio_to_{other}"] = statistics.median(ours / others for ours, others in pairs)
    notes = {key: value for key, value in results[0].items() if key != "images_per_second"}
    packages = ("mmjax", "pillow", "grain", "webdataset", "torch", "torchvision")
    common.emit(benchmark="loader", **settings, **line, **notes, **common.versions(*packages))


def run(options, name, folder):
    """Runs a contender once, in a process of its own."""
    command = [sys.executable, __file__, f"--child={folder}", f"--contenders={name}"]
    for flag in ("timed", "workers", "batch", "output_size", "memory", "images"):
        command.append(f"--{flag.replace('_', '-')}={getattr(options, flag)}")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UserError(f"--contenders={name}: it failed with {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


_OPEN = """
import json, resource, sys, time
from mmjax.data.webdataset.index_file import TarIndex
from mmjax.utils.string_array import StringArray
memory = lambda: int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6
before, start = memory(), time.perf_counter()
index = TarIndex(sys.argv[1])
shards = index.shards()
names = StringArray(shards.names)
print(json.dumps({"examples": len(index), "seconds": time.perf_counter() - start, "MB": memory() - before}))
"""


def index_times(examples):
    """Prints how long an index of so many examples, 10,000 a shard, takes to open and what it adds to memory."""
    from mmjax.data.webdataset.index_file import IndexWriter
    from mmjax.data.webdataset.tar_format import ShardTable

    table = ShardTable(np.ones((10_000, 2), np.uint32), {"jpg;json;txt": 10_000}, "")
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "large.index")
        with IndexWriter(path) as writer:
            for shard in range(max(1, examples // len(table.rows))):
                writer.add(f"{shard:05d}.tar", 10**9, 0, table)
        subprocess.run([sys.executable, "-c", _OPEN, path], check=True)


def run_child(options):
    """One contender: warm-up, then so many images against the clock (or with a look at the memory now and then)."""
    name, folder = options.contenders, Path(options.child)
    if name == "limit":
        print(json.dumps({"images_per_second": limit(options, folder)}))
        return
    total = options.memory or options.timed
    batches, note = peer(options, folder) if name == "peer" else (ours(options, folder, name == "mmjax"), {})
    iterator = iter(batches)
    # What was read ahead before the clock started must not count: the warm-up is longer than that.
    for _ in range(4 + 4 * options.workers):
        next(iterator)
    start, memory = time.perf_counter(), []
    for step in range(-(-total // options.batch)):
        next(iterator)
        if options.memory and step % max(1, total // options.batch // 10) == 0:
            memory.append(round(tree_memory() / 1e6))
    seconds = time.perf_counter() - start
    rate = (-(-total // options.batch) * options.batch) / seconds
    print(json.dumps({"images_per_second": rate, **note, **({"memory_mb": memory} if memory else {})}), flush=True)
    os._exit(0)  # workers of either library need not be waited for


def make_tars(folder, size, count):
    """Writes 1/f-noise JPEGs (as detailed as photographs, at about 30 kB for 256 pixels) with captions."""
    if folder.is_dir() and any(folder.glob("*.tar")):
        return
    folder.mkdir(parents=True)
    rng = np.random.default_rng(size)
    pool = [noise_jpeg(rng, size) for _ in range(min(count, 64))]
    number = 0
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for _ in range(count // SHARDS):
                for ending, data in (("jpg", pool[number % len(pool)]), ("txt", CAPTION.format(number).encode())):
                    info = tarfile.TarInfo(f"{number:09d}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
                number += 1


def noise_jpeg(rng, size, quality=95):
    """A JPEG of noise with the spectrum of natural images."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0 / size
    grey = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) / frequency**1.35, s=(size, size))
    tint = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, size, size))) / frequency**1.6, s=(size, size))
    scaled = [channel / channel.std() for channel in (grey, *tint)]
    pixels = 128 + 45 * scaled[0][..., None] + 12 * np.stack(scaled[1:], axis=-1)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def ours(options, folder, draft):
    """mmjax's batches, from the tars."""
    from mmjax.data import mixture
    from mmjax.data.image import transforms as transforms_lib
    from mmjax.data.loading import batches as batches_lib
    from mmjax.data.loading import example_transforms, train_examples
    from mmjax.data.text.make_tokenizer import make_tokenizer

    train = train_examples.TrainExamples(
        mixture.parse_mixture(f"wds:{folder}/{{00000..{SHARDS - 1:05d}}}.tar"),
        seed=0,
        transform=example_transforms.PairTransform(
            transforms_lib.ImageSpec(size=options.output_size, draft=draft), make_tokenizer("clip", 77)
        ),
    )
    return batches_lib.train_batches(
        train,
        start_step=0,
        stop_step=10**9,
        global_batch=options.batch,
        rows=range(options.batch),
        workers=options.workers,
    )


def limit(options, folder):
    """Images per second of decoding and cropping alone, in as many processes as there are workers."""
    files = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            pictures = [tar.extractfile(member) for member in tar if member.name.endswith("jpg")]
            files += [picture.read() for picture in pictures[:64] if picture]
    context = multiprocessing.get_context("spawn")
    ready, go = context.Barrier(options.workers + 1), context.Event()
    share = options.timed // options.workers
    arguments = (files, share, options.output_size, ready, go)
    workers = [context.Process(target=_decode, args=arguments) for _ in range(options.workers)]
    for worker in workers:
        worker.start()
    ready.wait(timeout=300)  # a worker that has died never comes
    start = time.perf_counter()
    go.set()
    for worker in workers:
        worker.join()
    return share * options.workers / (time.perf_counter() - start)


def _decode(files, count, size, ready, go):
    from mmjax.data.image import crops
    from mmjax.data.image import transforms as transforms_lib
    from mmjax.data.loading import order

    spec = transforms_lib.ImageSpec(size=size, draft=True)
    for number in range(16):
        crops.train_image(files[number % len(files)], spec, order.example_rng(0, number))
    ready.wait()
    go.wait()
    for number in range(count):
        crops.train_image(files[number % len(files)], spec, order.example_rng(0, number))
    os._exit(0)


def peer(options, folder):
    """Batches of webdataset and torch's DataLoader, in the stages and with the buffers of open_clip's trainer."""
    import torch

    wds: Any = importlib.import_module("webdataset")  # type checkers do not see what it exports

    torch.set_num_threads(1)

    from mmjax.data.text.make_tokenizer import make_tokenizer

    tokenizer = make_tokenizer("clip", 77)
    preprocess, transforms = peer_transform(options.output_size)
    stages = [
        wds.ResampledShards(f"{folder}/{{00000..{SHARDS - 1:05d}}}.tar"),  # --dataset-resampled: never ends
        wds.tarfile_to_samples(),
        wds.shuffle(bufsize=_SHUFFLED, initial=_SHUFFLED),
        wds.select(lambda sample: "txt" in sample and "jpg" in sample),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=preprocess, text=lambda text: torch.from_numpy(tokenizer([text])[0][0]).long()),
        wds.to_tuple("image", "text"),
        wds.batched(options.batch, partial=False),
    ]
    loader = wds.WebLoader(
        wds.DataPipeline(*stages),
        batch_size=None,
        shuffle=False,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )
    return loader, {"transforms": transforms}


def peer_transform(size):
    """open_clip's training transform, and whose operations it is made of."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    try:
        from torchvision import transforms
        from torchvision.transforms import InterpolationMode

        steps = [
            transforms.RandomResizedCrop(size, scale=(0.9, 1.0), interpolation=InterpolationMode.BICUBIC),
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
        return transforms.Compose(steps), "torchvision's"
    except (ImportError, AttributeError, RuntimeError, TypeError):
        return _imitation(size, mean, std), "our imitation of torchvision's"


def _imitation(size, mean, std):
    """RandomResizedCrop, ToTensor and Normalize as torchvision computes them, in Pillow and torch."""
    import torch

    from mmjax.data.image import crops
    from mmjax.data.image import transforms as transforms_lib

    spec, rng = transforms_lib.ImageSpec(size=size), np.random.default_rng()
    mean, std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)

    def transform(image):
        box = crops.random_crop_box(image.width, image.height, spec, rng)
        image = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
        image = image.convert("RGB")
        tensor = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(size, size, 3)
        tensor = tensor.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return tensor.clone().sub_(mean).div_(std)

    return transform


def tree_memory():
    """Bytes of memory of this process and its children; pages that several share are counted in parts (PSS)."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
            waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return total


if __name__ == "__main__":
    sys.exit(main())
