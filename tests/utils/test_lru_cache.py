import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mmjax.utils.lru_cache import LRUCache


def double(key):
    return 2 * key


def test_the_values_used_last_are_kept_up_to_the_limit():
    made = []
    lru = LRUCache(lambda key: made.append(key) or "x" * key, 10, size=len)
    for key in (4, 5, 4, 3, 4, 5, 20, 4):
        assert lru.get(key) == "x" * key
    assert made == [4, 5, 3, 5, 20, 4]


def test_threads_wait_for_one_making_of_a_value_and_not_for_others():
    made, gate = [], threading.Event()

    def make(key):
        made.append(key)
        if key == "slow":
            gate.wait()
        return key

    lru = LRUCache(make, 100)
    with ThreadPoolExecutor(5) as pool:
        slow = [pool.submit(lru.get, "slow") for _ in range(3)]
        assert lru.get("quick") == "quick" and not any(future.done() for future in slow)
        gate.set()
        assert [future.result() for future in slow] == ["slow"] * 3
    assert sorted(made) == ["quick", "slow"]


def test_a_failure_is_not_kept():
    results = [OSError("first"), "value"]

    def make(key):
        result = results.pop(0)
        if isinstance(result, OSError):
            raise result
        return result

    lru = LRUCache(make, 1)
    with pytest.raises(OSError, match="first"):
        lru.get(1)
    assert lru.get(1) == lru.get(1) == "value"


def test_values_stay_with_their_process():
    lru = LRUCache(double, 10)
    assert lru.get(2) == 4
    copy = pickle.loads(pickle.dumps(lru))
    assert not copy._entries and copy.get(3) == 6
    lru._process = os.getpid() + 1  # as a forked child finds it
    assert lru.get(5) == 10 and list(lru._entries) == [5]


def test_many_threads_get_their_values_under_eviction():
    lru = LRUCache(lambda key: time.sleep(0.0005) or 2 * key, 3)
    with ThreadPoolExecutor(8) as pool:
        keys = [i * 7 % 11 for i in range(400)]
        assert list(pool.map(lru.get, keys)) == [2 * key for key in keys]
    assert len(lru._entries) <= 3 and lru._total == len(lru._entries)


def test_evicted_values_are_made_again_and_make_room():
    made = []
    lru = LRUCache(lambda key: made.append(key) or "x" * key, 10, size=len)
    assert [lru.get(key) for key in (4, 5)] == ["x" * 4, "x" * 5]
    lru.evict(4)
    lru.evict(7)  # is not there
    assert 4 not in lru and 5 in lru
    lru.get(3)  # would not fit beside both
    assert 5 in lru
    lru.evict_where(lambda value: len(value) == 5)
    assert [key in lru for key in (3, 4, 5)] == [True, False, False]
    lru.get(5)
    assert made == [4, 5, 3, 5]
