import gc
import multiprocessing
import threading
import time

import numpy as np
import pytest

from mmjax.data.image.transforms import ImageSpec
from mmjax.data.loading.batches import train_batches
from mmjax.data.loading.example_transforms import PairTransform
from mmjax.data.loading.train_examples import TrainExamples
from mmjax.data.text.make_tokenizer import make_tokenizer
from mmjax.errors import UserError

GLOBAL_BATCH = 24


class Noise:
    """Images that tell their index, three captions each, and every fifth example broken."""

    name, class_names, templates = "noise", None, None

    def __init__(self, n=50):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index % 5 == 0:
            raise FileNotFoundError(index)
        image = np.random.default_rng(index).integers(0, 256, (10, 10, 3), dtype=np.uint8)
        return {"image": image, "captions": [f"{index}{c}" for c in "abc"], "id": index}


class Positions:
    """Examples that say where they are and remember who was asked for; each takes `seconds`."""

    def __init__(self, seconds=0.0):
        self.seconds, self.seen = seconds, []

    def __getitem__(self, position):
        time.sleep(self.seconds)
        self.seen.append(position)
        return {"position": np.int64(position), "image": np.full((2, 2, 3), position % 256, np.uint8)}


def noise_examples(seed=0):
    mixture = [(Noise(), 0.75), (Noise(11), 0.25)]
    tokenizer = make_tokenizer("clip", 8)
    return TrainExamples(mixture, seed=seed, transform=PairTransform(ImageSpec(size=8), tokenizer))


def batches(examples, start=0, stop=6, rows=range(GLOBAL_BATCH), **options):
    with train_batches(
        examples, start_step=start, stop_step=stop, global_batch=GLOBAL_BATCH, rows=rows, **options
    ) as it:
        return list(it)


def same(a, b):
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) and x[k].dtype == y[k].dtype for k in x)
        for x, y in zip(a, b, strict=True)
    )


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def settled(value, polls=20):
    """A value once it has not changed for so many polls, between which every thread has had its turn."""
    last, same_for = value(), 0
    while same_for < polls:
        time.sleep(0.02)
        now = value()
        last, same_for = now, same_for + 1 if now == last else 0
    return last


def reading_threads():
    return [t for t in threading.enumerate() if t.name.startswith("grain-")]


@pytest.fixture(scope="module")
def one_host():
    return batches(noise_examples(), threads=0, prefetch=0)


def test_row_r_of_step_s_is_the_example_at_s_times_batch_plus_r(one_host):
    examples = noise_examples()
    for step, batch in enumerate(one_host):
        for row in range(GLOBAL_BATCH):
            expected = examples[step * GLOBAL_BATCH + row]
            assert all(np.array_equal(batch[k][row], expected[k]) for k in expected)
    assert batch["image"].shape == (GLOBAL_BATCH, 8, 8, 3) and batch["substitution_reason"].dtype == np.int8
    assert 10 < sum((b["substitution_reason"] > 0).sum() for b in one_host) < 60


@pytest.mark.parametrize("hosts", [1, 2, 3, 8])
def test_the_hosts_together_read_the_one_host_sequence(one_host, hosts):
    size = GLOBAL_BATCH // hosts
    parts = [batches(noise_examples(), rows=range(h * size, (h + 1) * size), threads=2) for h in range(hosts)]
    joined = [{k: np.concatenate([p[step][k] for p in parts]) for k in parts[0][step]} for step in range(6)]
    assert same(joined, one_host)


def test_rows_come_in_the_order_asked_for():
    rows = np.array([20, 3, 4, 11, 0, 23, 7])
    for batch, step in zip(batches(Positions(), start=2, stop=4, rows=rows, threads=3), (2, 3), strict=True):
        assert (batch["position"] == step * GLOBAL_BATCH + rows).all()


@pytest.mark.parametrize("start", [1, 2, 5])
def test_a_run_resumed_at_any_step_reads_on(one_host, start):
    assert same(batches(noise_examples(), start=start), one_host[start:])


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 5}, {"prefetch": 0}, {"threads": 3, "prefetch": 7}])
def test_threads_and_prefetching_change_nothing(one_host, options):
    assert same(batches(noise_examples(), **options), one_host)


class FailingAt:
    """Examples that raise from a position on."""

    def __init__(self, examples, position):
        self.examples, self.position = examples, position

    def __getitem__(self, position):
        if position >= self.position:
            raise UserError(f"data.train: position {position} is broken")
        return self.examples[position]


def test_workers_change_nothing_pass_errors_on_and_end(one_host):
    """One test for all that needs processes, since they take seconds to start."""
    before = set(multiprocessing.active_children())
    examples = FailingAt(noise_examples(), 6 * GLOBAL_BATCH + 20)
    with train_batches(
        examples, start_step=1, stop_step=10**6, global_batch=GLOBAL_BATCH, rows=range(GLOBAL_BATCH), workers=2
    ) as iterator:
        assert same([next(iterator) for _ in range(5)], one_host[1:])
        workers = set(multiprocessing.active_children()) - before
        assert len(workers) == 2
        with pytest.raises(UserError, match="position 164 is broken"):
            next(iterator)
    assert wait_until(lambda: not any(w.is_alive() for w in workers) and not reading_threads())


@pytest.mark.parametrize("options", [{"prefetch": 0}, pytest.param({"workers": 2}, marks=pytest.mark.full)])
def test_a_batch_is_finished_once_stacked(one_host, options):
    def finish(batch):
        assert isinstance(batch["id"], np.ndarray)
        return batch | {"order": np.argsort(batch["id"][:, 0])}

    finished = list(batches(noise_examples(), finish=finish, **options))
    assert len(finished) == len(one_host)
    for batch, expected in zip(finished, one_host, strict=True):
        np.testing.assert_array_equal(batch["order"], np.argsort(expected["id"][:, 0]))
        assert sorted(batch) == sorted([*expected, "order"])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_in_a_thread_arrives_as_itself_after_the_good_batches(prefetch):
    iterator = train_batches(
        FailingAt(Positions(), 2 * GLOBAL_BATCH),
        start_step=0,
        stop_step=9,
        global_batch=GLOBAL_BATCH,
        rows=range(4),
        threads=2,
        prefetch=prefetch,
    )
    assert len([next(iterator), next(iterator)]) == 2
    with pytest.raises(UserError, match="position 48 is broken|position 5. is broken"):
        next(iterator)
    assert wait_until(lambda: not reading_threads())


def test_batches_are_prepared_in_the_background_and_not_without_end():
    examples = Positions()
    with train_batches(
        examples,
        start_step=0,
        stop_step=1000,
        global_batch=GLOBAL_BATCH,
        rows=range(GLOBAL_BATCH),
        threads=2,
        prefetch=3,
    ) as iterator:
        assert wait_until(lambda: len(examples.seen) >= 3 * GLOBAL_BATCH)  # before anybody has asked
        next(iterator)
        # One taken, three ready, one waiting for its place: these must come, however slow the machine. Behind them are
        # the chunks in the threads' hands, of 12 rows and at most two for each thread and one in its hand.
        assert wait_until(lambda: len(examples.seen) >= (1 + 3 + 1) * GLOBAL_BATCH)
        assert len(settled(lambda: list(examples.seen))) <= (1 + 3 + 1 + 3) * GLOBAL_BATCH
        next(iterator)  # which makes room for one more: what stood still was full, not slow
        assert wait_until(lambda: len(examples.seen) >= (2 + 3 + 1) * GLOBAL_BATCH)
        assert len(settled(lambda: list(examples.seen))) <= (2 + 3 + 1 + 3) * GLOBAL_BATCH


def test_closing_early_ends_the_threads_and_the_iteration():
    iterator = train_batches(
        Positions(seconds=0.001), start_step=0, stop_step=10**6, global_batch=GLOBAL_BATCH, rows=range(8), threads=3
    )
    next(iterator)
    assert reading_threads()
    iterator.close()
    iterator.close()
    assert wait_until(lambda: not reading_threads())
    with pytest.raises(StopIteration):
        next(iterator)


def test_the_end_of_the_run_ends_the_threads():
    assert len(batches(Positions(), stop=3)) == 3
    assert batches(Positions(), start=3, stop=3) == []
    assert wait_until(lambda: not reading_threads())


def test_steps_far_into_a_run_are_reached_at_once():
    far = 10**12
    (batch,) = batches(Positions(), start=far, stop=far + 1, rows=[1])
    assert batch["position"].tolist() == [far * GLOBAL_BATCH + 1]


@pytest.mark.parametrize(
    "options", [{"rows": []}, {"rows": [24]}, {"rows": [-1]}, {"start": 7}, {"threads": -1}, {"workers": -1}]
)
def test_arguments_that_make_no_batch_are_refused(options):
    with pytest.raises(ValueError, match="rows|counts"):
        batches(Positions(), **options)


def test_an_iterator_that_is_forgotten_ends_its_threads():
    iterator = train_batches(
        Positions(seconds=0.001), start_step=0, stop_step=10**6, global_batch=GLOBAL_BATCH, rows=range(8), threads=2
    )
    next(iterator)
    assert reading_threads()
    del iterator
    gc.collect()
    assert wait_until(lambda: not reading_threads())
