"""What one of several processes runs in the tests; `processes.py` starts them.

`process_main.py steps FOLDER MESH,... COORDINATOR COUNT INDEX`: the checks of meshes.
`process_main.py cli WHAT@STEP:PROCESS,... FOLDER MESH,... train ...`: the command line, with something that happens at
a step of one process (SIGTERM, SIGINT, mistake, crash, kill; `-` for nothing), and then the checks of meshes, unless
FOLDER is `-`. `MESH:restored` leaves out the training, whose compilation takes longest.
"""

import functools
import os
import pickle
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from mmjax.parallel.config import MeshConfig


def steps(folder, meshes, coordinator, count, index):
    from mmjax.parallel import cluster, process_agreement

    cluster.start(coordinator, int(count), int(index), timeout=60)
    check(Path(folder), meshes.split(","))
    process_agreement.shutdown(0, together=True)


def check(folder, meshes):
    """Leaves what it finds in `folder`, a file for each process; asserts what needs no comparison."""
    from mmjax.errors import UserError
    from mmjax.parallel import mesh as mesh_lib
    from mmjax.parallel import process_agreement
    from mmjax.parallel.make_mesh import make_mesh
    from mmjax.training import step_agreement
    from tests.helpers import mesh_steps

    index, count = jax.process_index(), jax.process_count()
    result = {"first": process_agreement.is_process_0()}

    # Agreement: short and long messages, and mistakes of one and of all.
    assert process_agreement.all_gather_objects(index) == list(range(count))
    assert process_agreement.all_gather_objects("é" * 3000 * index) == ["é" * 3000 * i for i in range(count)]
    assert process_agreement.broadcast_from_0([index, None]) == [0, None]
    process_agreement.raise_error_on_all(None)
    result["raised"] = []
    for error in (UserError("x=1 is wrong") if index else None, UserError("y"), KeyError("z") if index else None):
        try:
            process_agreement.raise_error_on_all(error)
        except Exception as raised:
            result["raised"].append((type(raised).__name__, str(raised)))
    process_agreement.check_shared(folder, "--workdir")
    local_folder = folder / f"own{index}"
    local_folder.mkdir()
    with mock.patch.object(process_agreement, "_VISIBILITY", 0.2):
        try:
            process_agreement.check_shared(local_folder, "--workdir")
        except UserError as raised:
            result["not shared"] = str(raised)

    # Rows: on every mesh, each process puts in its own and gets all of them out.
    shapes = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4), (1, 1, 8), (4, 1, 2)]
    complete = np.arange(16 * 3).reshape(16, 3).astype(np.int32)
    result["rows"] = {}
    for shape in shapes:
        mesh = make_mesh(MeshConfig(**dict(zip(mesh_lib.AXES, shape, strict=True))))
        rows = mesh_lib.local_rows(mesh, 16)
        result["rows"][shape] = rows[mesh_lib.rows_counted_here(mesh, 16)].tolist()
        np.testing.assert_array_equal(mesh_lib.to_host(mesh_lib.to_global(mesh, complete[rows])), complete)
    votes = step_agreement.AsyncAllReduce(mesh)
    result["votes"] = [np.asarray(votes.sum([1, index, 10 * k])).tolist() for k in range(2)]

    # Training, and checkpoints from and to another number of processes.
    for name in meshes:
        shape, _, only = name.partition(":")
        run = mesh_steps.Steps(tuple(map(int, shape.split("x"))))
        state = run.restore(folder / "one")
        result[shape] = {"restored": mesh_steps.flat(state)}
        if only != "restored":
            losses, gradient, state = run.train(run.start())
            result[shape] |= {"losses": losses, "gradient": gradient, "state": mesh_steps.flat(state)}
        run.save(folder / f"two-{shape}", state)
    (folder / f"found{index}").write_bytes(pickle.dumps(result))


def cli(events, folder, meshes, *argv):
    from mmjax.cli import main
    from mmjax.data.loading import batches
    from mmjax.errors import UserError
    from mmjax.evaluation import from_config
    from mmjax.parallel import process_agreement
    from mmjax.report import page
    from mmjax.training.step_agreement import StepAgreement

    def happen(what):
        if what in ("SIGTERM", "SIGINT"):
            os.kill(os.getpid(), getattr(signal, what))
        elif what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "mistake":
            raise UserError("data.train: nothing can be read here")
        elif what == "crash":
            raise RuntimeError("something broke")

    step_number = {}
    for event in events.split(",") if events != "-" else ():
        what, _, where = event.partition("@")
        step, _, process = where.partition(":")
        step_number.setdefault((step, int(process)), []).append(what)
    counted, post = [0], StepAgreement.post
    run_evaluation, following = from_config.Evaluator.run, batches.BatchIterator.__next__

    def at_step(self, replaced, step):
        for what in step_number.get((str(step), jax.process_index()), ()):
            if what != "mistake":
                happen(what)
        return post(self, replaced, step)

    def at_batch(self):
        counted[0] += 1
        for what in step_number.get((str(counted[0]), jax.process_index()), ()):
            if what == "mistake":
                happen(what)
        return following(self)

    def at_evaluation(self, *args, **kwargs):
        for what in step_number.get(("evaluation", jax.process_index()), ()):
            happen(what)
        return run_evaluation(self, *args, **kwargs)

    leave = process_agreement.shutdown

    def check_and_leave(status, *, together):
        if folder != "-":
            check(Path(folder), meshes.split(","))
        leave(status, together=together)

    drawn = mock.patch.object(page, "write_report")  # drawing takes longer than the rest
    # A process that dies is missed after 100 seconds; here sooner.
    heartbeat = {"heartbeat_timeout_seconds": 12} if "crash" in events or "kill" in events else {}
    with (
        mock.patch.object(jax.distributed, "initialize", functools.partial(jax.distributed.initialize, **heartbeat)),
        mock.patch.object(StepAgreement, "post", at_step),
        mock.patch.object(batches.BatchIterator, "__next__", at_batch),
        mock.patch.object(from_config.Evaluator, "run", at_evaluation),
        mock.patch.object(process_agreement, "shutdown", check_and_leave),
        drawn,
    ):
        return main.main(argv)


if __name__ == "__main__":
    began = time.perf_counter()
    status = {"steps": steps, "cli": cli}[sys.argv[1]](*sys.argv[2:])
    print(f"process time {time.process_time():.1f} s, {time.perf_counter() - began:.1f} s", file=sys.stderr)
    sys.exit(status)
