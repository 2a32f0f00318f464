import concurrent.futures
import errno
import logging
import multiprocessing
import os
import socket
import sys
import time
import types

import pytest

from mmjax.io import retries
from mmjax.io.file_pool import pread
from mmjax.io.reader import Reader
from mmjax.io.retries import ReadError, StorageAwayError, is_transient, with_retries
from tests.helpers.http_server import serve

DATA = bytes(range(256)) * 400


@pytest.fixture
def bucket(tmp_path):
    (tmp_path / "file.bin").write_bytes(DATA)
    (tmp_path / "empty").write_bytes(b"")
    with serve(tmp_path) as bucket:
        yield bucket


def location(kind, bucket):
    return {"http": bucket.url, "local": bucket.folder, "file": f"file://{bucket.folder}"}[kind] + "/file.bin"


@pytest.mark.parametrize("kind", ["http", "local", "file"])
def test_files_and_parts_of_files_are_read(bucket, kind, tmp_path):
    reader, path = Reader(5.0), location(kind, bucket)
    assert reader.read(path) == DATA and reader.size(path) == len(DATA) and reader.exists(path)
    for offset, length in ((0, 10), (1000, 5000), (len(DATA) - 3, 100), (len(DATA), 5), (10**9, 5), (7, 0)):
        assert reader.read_range(path, offset, length) == DATA[offset : offset + length]
    if kind == "http":
        reader.download(path, str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == DATA


@pytest.mark.parametrize("kind", ["http", "local"])
def test_a_file_that_is_not_there_is_told_at_once(bucket, kind):
    reader, path = Reader(60.0), location(kind, bucket) + "x"
    started = time.monotonic()
    for call in (reader.read, reader.size, lambda path: reader.read_range(path, 0, 5)):
        with pytest.raises(FileNotFoundError):
            call(path)
    assert not reader.exists(path) and time.monotonic() - started < 5
    with pytest.raises(FileNotFoundError):
        reader.download(bucket.url + "/nothing", bucket.folder + "/copy")
    assert not [name for name in os.listdir(bucket.folder) if "copy" in name]


def calls(path, folder):
    return {
        "read": lambda reader: reader.read(path) == DATA,
        "range": lambda reader: reader.read_range(path, 100, 50_000) == DATA[100:50_100],
        "download": lambda reader: (
            reader.download(path, f"{folder}/copy") is None and open(f"{folder}/copy", "rb").read() == DATA
        ),
        "size": lambda reader: reader.size(path) == len(DATA),
    }


@pytest.mark.parametrize("failure", [503, 500, 429, "cut"])
@pytest.mark.parametrize("what", ["read", "range", "download", "size"])
def test_what_fails_for_a_while_is_asked_again(bucket, what, failure, tmp_path, caplog):
    if what == "size" and failure == "cut":
        return  # it has no contents
    bucket.fail_next, bucket.failure = 2, failure
    with caplog.at_level(logging.WARNING, "mmjax.data"):
        assert calls(location("http", bucket), tmp_path)[what](Reader(20.0))
    assert bucket.fail_next == 0
    assert sum("trying again for up to 20 s" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("what", ["read", "range", "download", "size"])
@pytest.mark.parametrize("failure", [503, "silence"])
def test_what_fails_for_ever_is_given_up_in_time(bucket, what, failure, tmp_path):
    bucket.failure, bucket.fail_until = failure, time.monotonic() + 1000
    started = time.monotonic()
    with pytest.raises(ReadError, match="file.bin: .*, for 0.5 s"):
        calls(location("http", bucket), tmp_path)[what](Reader(0.5))
    assert time.monotonic() - started < 10


def test_a_refused_connection_is_given_up_in_time():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(ReadError, match="for 0.5 s"):
        Reader(0.5).read_range(f"http://127.0.0.1:{port}/x", 0, 5)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("status", [401, 403])
def test_what_is_forbidden_is_not_asked_again(bucket, status):
    bucket.failure, bucket.fail_until = status, time.monotonic() + 1000
    with pytest.raises(PermissionError, match=str(status)):
        Reader(60.0).read(location("http", bucket))
    assert len(bucket.requests) == 1


def test_a_server_that_sends_whole_files_is_cut_to_the_part(bucket):
    bucket.ranges = False
    reader, path = Reader(5.0), location("http", bucket)
    for offset, length in ((0, 10), (50, len(DATA)), (len(DATA) - 3, 100), (len(DATA) + 5, 3)):
        assert reader.read_range(path, offset, length) == DATA[offset : offset + length]
    assert not reader.has_ranges(path)


def read_some(url):
    return [Reader(10.0).read_range(url, offset, 100) for offset in range(0, 2000, 100)]


def test_threads_and_spawned_processes_read_at_once(bucket):
    url, expected = location("http", bucket), [DATA[offset : offset + 100] for offset in range(0, 2000, 100)]
    assert read_some(url) == expected
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_some, [url] * 16)) == [expected] * 16
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(read_some, url).result(120) == expected


def test_files_and_pages_are_listed(bucket):
    assert Reader(5.0).glob(f"{bucket.folder}/f*.bin") == [f"{bucket.folder}/file.bin"]
    assert Reader(5.0).glob(f"{bucket.url}/*.bin") == [f"{bucket.url}/file.bin"]
    assert Reader(5.0).glob(f"{bucket.url}/*.none") == []
    bucket.fail_next = 2
    assert Reader(20.0).glob(f"{bucket.url}/*.bin") == [f"{bucket.url}/file.bin"]


def test_a_stale_file_of_a_network_file_system_is_opened_again(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"old!")
    assert pread(str(path), 0, 4) == b"old!"
    (tmp_path / "g").write_bytes(b"new!")
    os.replace(tmp_path / "g", path)
    real, failed = os.pread, []

    def stale_once(fd, length, offset):
        if not failed:
            failed.append(fd)
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", stale_once)
    assert pread(str(path), 0, 4) == b"new!" and failed


class WithStatus(Exception):
    def __init__(self, **fields):
        self.__dict__.update(fields)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(errno.EIO, "x"), True),
        (OSError(errno.ENOSPC, "x"), False),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (ImportError(), False),
        (ValueError(), False),
        (WithStatus(status=503), True),
        (WithStatus(code=404), False),
        (WithStatus(code=429), True),
        (WithStatus(response={"ResponseMetadata": {"HTTPStatusCode": 503}}), True),
        (WithStatus(response={"ResponseMetadata": {"HTTPStatusCode": 400}}), False),
        (WithStatus(response=types.SimpleNamespace(status_code=404)), False),
        (WithStatus(response=types.SimpleNamespace(status_code=502)), True),
        (RuntimeError(), False),
    ],
)
def test_only_what_may_pass_is_asked_again(error, passes):
    assert is_transient(error) == passes


def test_the_errors_of_clients_that_are_loaded_are_known(monkeypatch):
    import aiohttp

    assert is_transient(aiohttp.ServerDisconnectedError()) and is_transient(aiohttp.ClientPayloadError())
    kind = type("HTTPClientError", (Exception,), {})
    assert not is_transient(kind())
    monkeypatch.setitem(sys.modules, "botocore.exceptions", types.SimpleNamespace(HTTPClientError=kind))
    assert is_transient(kind())


def _unresolved(kind, number):
    """The error of a name that was not resolved, as a client raises it."""
    error = ConnectionError("cannot connect")
    cause = socket.gaierror(number, "Name or service not known")
    if kind == "aiohttp":
        error.os_error = cause
    elif kind == "requests":
        error.__context__ = RuntimeError("retries")
        error.__context__.reason = RuntimeError("resolving")
        error.__context__.reason.__cause__ = cause
    return cause if kind == "socket" else error


@pytest.mark.parametrize("kind", ["socket", "aiohttp", "requests"])
def test_a_host_that_there_is_not_is_given_up_soon_and_then_at_once(monkeypatch, kind):
    clock, attempts = [0.0], []
    monkeypatch.setattr(retries, "time", types.SimpleNamespace(monotonic=lambda: clock[0], sleep=advance(clock)))
    url = f"http://host-{kind}/a.jpg"

    def call():
        attempts.append(clock[0])
        raise _unresolved(kind, socket.EAI_NONAME)

    with pytest.raises(ReadError, match="name of the host") as error:
        with_retries(url, call, 120.0)
    assert not isinstance(error.value, StorageAwayError) and len(attempts) > 1 and clock[0] <= 5
    attempts.clear()
    with pytest.raises(ReadError, match="name of the host"):
        with_retries(f"{url}2", call, 120.0)
    assert len(attempts) == 1
    assert with_retries(url, lambda: b"x", 120.0) == b"x"
    with pytest.raises(StorageAwayError):  # it was there before
        with_retries(url, call, 120.0)
    assert clock[0] > 60


def test_a_name_that_cannot_be_resolved_now_is_asked_for_again(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(retries, "time", types.SimpleNamespace(monotonic=lambda: clock[0], sleep=advance(clock)))
    with pytest.raises(StorageAwayError):
        with_retries("http://some-host/a.jpg", raising(_unresolved("aiohttp", socket.EAI_AGAIN)), 120.0)
    assert clock[0] > 60


def advance(clock):
    def sleep(seconds):
        clock[0] += seconds

    return sleep


def raising(error):
    def call():
        raise error

    return call
