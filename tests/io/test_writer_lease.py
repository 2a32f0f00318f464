"""The claim of one process on a folder: refused while its holder lives, taken when it does not, and looked at."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest
import tensorstore

from mmjax.errors import MachineError, UserError
from mmjax.io import paths, writer_lease
from mmjax.io.writer_lease import LeaseSettings
from tests.helpers import runs

QUICK = LeaseSettings(renew=0.1, lost=0.6)
NETWORK = LeaseSettings(renew=0.1, lost=0.6, kernel_lock=False)  # locks that other machines do not see


@pytest.fixture(params=["disk", "network", "memory"])
def place_of(request, tmp_path):
    """A folder, and the settings of leases on it."""
    if request.param == "memory":
        folder = paths.as_path(f"memory://lease-{uuid.uuid4().hex}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder, NETWORK
    return paths.as_path(tmp_path), QUICK if request.param == "disk" else NETWORK


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def pass_over(folder):
    """Another machine's process takes a lease."""
    holder = {"host": "other", "pid": 7, "id": "other", "machine": "other", "since": "noon", "beats": 1}
    (folder / ".writer.json").write_text(json.dumps(holder))


def test_a_second_one_is_refused_until_the_first_gives_it_back(place_of):
    folder, settings = place_of
    first = writer_lease.claim(folder, "--workdir", settings)
    first.check()
    for _ in range(2):
        with pytest.raises(UserError, match=f"--workdir={folder}: process {os.getpid()} on .* since 20"):
            writer_lease.claim(folder, "--workdir", settings)
    first.check()
    first.release()
    first.release()
    assert files(folder) == []
    second = writer_lease.claim(folder, "--workdir", settings)
    second.check()
    second.release()


def test_a_lease_that_is_not_renewed_is_taken(place_of, capsys):
    folder, settings = place_of
    pass_over(folder)
    began = time.monotonic()
    lease = writer_lease.claim(folder, "--workdir", settings)
    assert time.monotonic() - began >= settings.lost
    assert "process 7 on other" in capsys.readouterr().err
    lease.check()
    lease.release()


def test_a_holder_that_was_passed_over_notices(place_of):
    folder, settings = place_of
    lease = writer_lease.claim(folder, "--workdir", settings)
    pass_over(folder)
    with pytest.raises(MachineError, match="process 7 on other"):
        lease.check()
    time.sleep(3 * settings.renew)
    assert json.loads((folder / ".writer.json").read_text())["id"] == "other"
    lease.release()
    assert lease.lost and files(folder) == [".writer.json"]  # the other's


def test_a_folder_that_is_gone_is_noticed(tmp_path):
    folder = paths.as_path(tmp_path / "run")
    folder.mkdir()
    lease = writer_lease.claim(folder, "--workdir", QUICK)
    paths.remove_tree(folder)
    with pytest.raises(MachineError):
        lease.check()
    lease.release()


HOLDER = """
import sys, time
from mmjax.io import paths, writer_lease
lease = writer_lease.claim(paths.as_path(sys.argv[1]), "--workdir", writer_lease.LeaseSettings(0.1, 30.0))
print("claimed", flush=True)
time.sleep(60)
"""


def test_a_process_that_is_killed_is_followed_at_once(tmp_path):
    """On one machine: nobody waits until its lease is lost."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, env=runs.environment())
    assert holder.stdout is not None and holder.stdout.readline() == b"claimed\n"
    folder = paths.as_path(tmp_path)
    with pytest.raises(UserError, match=f"process {holder.pid} on "):
        writer_lease.claim(folder, "--workdir", QUICK)
    holder.send_signal(signal.SIGSTOP)  # stopped, it has its lock
    with pytest.raises(UserError, match=f"process {holder.pid} on "):
        writer_lease.claim(folder, "--workdir", QUICK)
    holder.kill()
    holder.wait()
    began = time.monotonic()
    lease = writer_lease.claim(folder, "--workdir", LeaseSettings(0.1, 30.0))
    assert time.monotonic() - began < 5
    lease.check()
    lease.release()


@pytest.mark.parametrize("content", ["", "not JSON", "[1]", "{}"])
def test_a_lease_that_is_none(content, tmp_path):
    (tmp_path / ".writer.json").write_text(content)
    lease = writer_lease.claim(paths.as_path(tmp_path), "--workdir", QUICK)
    lease.check()
    lease.release()


def test_a_store_that_cannot_create_if_absent_is_named(tmp_path, capsys):
    lease = writer_lease.claim(paths.as_path(f"file://{tmp_path}"), "--workdir", NETWORK)
    assert "file:// cannot make a file only where there is none" in capsys.readouterr().err
    with pytest.raises(UserError):
        writer_lease.claim(paths.as_path(f"file://{tmp_path}"), "--workdir", NETWORK)
    lease.release()


def test_objects_are_created_by_generation(tmp_path):
    """As for gs://, whose driver has the same calls."""
    folder = f"file://{tmp_path}/"
    assert writer_lease._write_if_absent(folder, "lease", b"first")
    assert not writer_lease._write_if_absent(folder, "lease", b"second")
    store = tensorstore.KvStore.open(folder).result()
    assert store.read("lease").result().value == b"first"
    missing = store.read("other").result().stamp.generation
    store.write("other", b"first").result()  # between looking and writing
    assert not store.write("other", b"second", if_equal=missing).result().generation
