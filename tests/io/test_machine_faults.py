"""Errors that are the machine's, whoever raises them and however far down, and those that are not."""

import errno
import os

import pytest

from mmjax.errors import MachineError, UserError
from mmjax.io import machine_faults


def os_error(name):
    number = getattr(errno, name)
    return OSError(number, os.strerror(number), "/data/run/file")


def caused(error, cause):
    error.__cause__ = cause
    return error


MACHINES = {
    "disk full": (os_error("ENOSPC"), "no space is left .*/data/run/file"),
    "quota": (os_error("EDQUOT"), "no space is left"),
    "limit of a file's size": (os_error("EFBIG"), "no space is left"),
    "read-only": (os_error("EROFS"), "the disk is read-only"),
    "broken disk": (os_error("EIO"), "the storage fails"),
    "network disk that is gone": (os_error("ESTALE"), "the storage fails"),
    "memory": (MemoryError("Unable to allocate 7 GiB"), "not enough memory .*7 GiB"),
    "in C++": (
        ValueError("Error writing x [OS error 28: ENOSPC No space left on device]"),
        "no space",
    ),
    "another process": (RuntimeError("Gloo AllReduce failed: Connection closed by peer [1.2.3.4]"), "another process"),
    "further down": (
        caused(RuntimeError("save"), caused(ValueError(), os_error("ENOSPC"))),
        "no space is left",
    ),
    "of one who tells it as a mistake": (caused(UserError("cannot write"), os_error("ENOSPC")), "no space is left"),
    "itself": (caused(RuntimeError("save failed"), MachineError("worker killed")), "^worker killed"),
}


@pytest.mark.parametrize("name", MACHINES)
def test_faults_of_the_machine(name):
    error, message = MACHINES[name]
    fault = machine_faults.of(error)
    assert isinstance(fault, MachineError)
    with pytest.raises(MachineError, match=message):
        raise fault
    assert "\n" not in str(fault)


@pytest.mark.parametrize(
    "error",
    [
        os_error("ENOENT"),
        os_error("EACCES"),
        UserError("steps=-1: give a positive number"),
        caused(UserError("data.train: no such file"), os_error("ENOENT")),
        caused(UserError("data.train: cannot be read"), os_error("EIO")),  # its message says where, and what to do
        ValueError("shapes do not fit"),
        KeyError("ENOSPC"),
    ],
)
def test_mistakes_and_faults_of_code(error):
    assert machine_faults.of(error) is None
