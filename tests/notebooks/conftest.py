"""What the tests of the notebooks share: one reduced run of each chapter a session, through one warm process."""

import executed
import pytest

from engine.run import warm


@pytest.fixture(scope="session")
def warmed(tmp_path_factory):
    """The surroundings of a job in a run's warm process, in whose kernels trainings are noted."""
    with warm.process(executed.watched(tmp_path_factory.mktemp("watch")), []) as found:
        yield found


@pytest.fixture(scope="session")
def reduced_run(warmed, tmp_path_factory):
    """Gives the reduced run of a chapter, in which all its rows are made; it is made once."""
    made = {}

    def run(name: str) -> executed.Executed:
        if name not in made:
            out = tmp_path_factory.mktemp(name)
            made[name] = executed.execute(name, out, executed.reduced(name, out), warmed)
        return made[name].passed()

    return run


def pytest_collection_modifyitems(items):
    """Tests of one file follow each other on one worker (``--dist loadgroup``), and so do those of the reduced runs."""
    for item in items:
        shares = "reduced_run" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("reduced_run" if shares else item.path.name))
