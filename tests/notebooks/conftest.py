"""What the tests of the notebooks share: one reduced run of each chapter a session, through a warm process."""

import fcntl
import os
import pickle

import executed
import pytest
from projects import copy_project
from smoke import RUN

from engine.run import warm

collect_ignore = [f"reduced/{name}.ipynb" for name in executed.APART]  # nbval would run them


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


@pytest.fixture(scope="session")
def run():
    """The folder of the smoke run; without it nothing here can be tested."""
    if not (RUN / "sweep.csv").exists():
        pytest.exit("runs/smoke is missing: make study PROFILE=smoke", returncode=1)
    return RUN


@pytest.fixture
def project(tmp_path):
    """A copy of the project with the smoke run and what Snakemake remembers of it."""
    return copy_project(tmp_path / "copy", "runs/smoke", ".snakemake/metadata")
