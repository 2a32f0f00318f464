"""The watch over other processes; `test_loop_meshes.py` has them die."""

import socket
import time
from unittest import mock

import pytest

from mmjax.parallel import peer_watch


@pytest.fixture
def watched(monkeypatch):
    """A watched connection's other end, and what the watch has ended for."""
    here, other = socket.socketpair()
    ends = []
    monkeypatch.setattr(peer_watch, "_end", ends.append)
    monkeypatch.setattr(peer_watch, "_open", [here])
    with mock.patch.object(peer_watch, "_KEEPALIVE", {}):
        peer_watch._watch(here, "process 1 of 2, on other")
    yield other, ends
    other.close()
    here.close()


def wait_for(ends):
    until = time.monotonic() + 5
    while not ends and time.monotonic() < until:
        time.sleep(0.01)
    return ends


def test_one_that_is_gone(watched):
    other, ends = watched
    other.close()
    assert wait_for(ends) == ["process 1 of 2, on other"]


def test_one_that_says_who_is_gone(watched):
    other, ends = watched
    peer_watch._send(other, {"gone": "process 7 of 9, on another"})
    assert wait_for(ends) == ["process 7 of 9, on another"]


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"[1]\n", b"{}\n"])
def test_what_is_no_message(content, watched):
    other, ends = watched
    other.sendall(content)
    other.close()
    assert wait_for(ends) == ["process 1 of 2, on other"]


def test_one_that_ends_in_order(watched):
    other, ends = watched
    peer_watch._send(other, {"bye": True})
    other.close()
    time.sleep(0.2)
    assert not ends


def test_this_one_ends_in_order(watched):
    other, ends = watched
    peer_watch.stop()
    assert peer_watch._read(other.makefile("r")) == {"bye": True}
    time.sleep(0.2)
    assert not ends


def test_alone_nothing_is_watched():
    peer_watch.start()
    assert not peer_watch._open
