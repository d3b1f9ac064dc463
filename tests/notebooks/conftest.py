"""What the tests of the notebooks share: one reduced run of each chapter a session, through a warm process."""

import fcntl
import os
import pickle

import executed
import pytest

from engine.run import warm


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A worker takes a file as a whole, whose tests share what they made; those on a copy of the project one by one."""
    for item in items:
        if "project" not in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session")
def warmed(tmp_path_factory):
    """The surroundings of a job in a run's warm process, in whose kernels trainings are noted."""
    with warm.process(executed.watched(tmp_path_factory.mktemp("watch")), []) as found:
        yield found


@pytest.fixture(scope="session")
def reduced_run(warmed, tmp_path_factory):
    """Gives the reduced run of a chapter, in which all its rows are made; it is made once, also for several workers."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "reduced"

    def run(name: str) -> executed.Executed:
        out, kept = shared / name, shared / f"{name}.pickle"
        out.mkdir(parents=True, exist_ok=True)
        with open(shared / f"{name}.lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                made = executed.execute(name, out, executed.reduced(name, out), warmed)
                kept.write_bytes(pickle.dumps(made))
        return pickle.loads(kept.read_bytes()).passed()

    return run
