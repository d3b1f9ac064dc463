"""How a notebook is run: what becomes of a kernel that cannot start or is killed, and where its sockets lie."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from projects import ROOT, environment

from engine.run import study, warm

CLIENT = [sys.executable, "-I", "-S", "engine/run/client.py"]


@pytest.fixture(params=["cold", "warm"])
def surroundings(request):
    """The environment of a job, in which a warm process may be named."""
    if request.param == "cold":
        yield environment(ROOT)
        return
    with warm.process(environment(ROOT), [], ["papermill.execute", "ipykernel.kernelapp"]) as found:
        yield found


def run(tmp_path, surroundings, *cells):
    """A notebook of ``cells``, run as a node of the study is: its process, and seconds that it took."""
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in ("", *cells)])
    content.cells[0].metadata["tags"] = ["parameters"]
    content.metadata = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(content, tmp_path / "in.ipynb")
    command = [*CLIENT, "engine/run/execute.py", str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=surroundings, text=True, capture_output=True, timeout=100)
    return done, time.monotonic() - started


@pytest.mark.parametrize("how", ["cold", "warm"])
def test_a_kernel_that_cannot_start_ends_its_job_within_seconds_and_says_so(tmp_path, how):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ipykernel_launcher.py").write_text("raise SystemExit('no kernel today')")
    broken = environment(ROOT) | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "broken"), str(ROOT)])}
    with contextlib.ExitStack() as stack:
        surroundings = stack.enter_context(warm.process(broken, [], [])) if how == "warm" else broken
        done, seconds = run(tmp_path, surroundings, "1 + 1")
    assert done.returncode and seconds < 40
    assert "no kernel today" in done.stderr
    assert "The kernel did not start" in done.stderr and str(tmp_path / "out.ipynb") in done.stderr


def test_a_kernel_that_is_killed_is_said_to_be_with_its_notebook_and_what_may_be_why(tmp_path, surroundings):
    done, _ = run(tmp_path, surroundings, "print('so far')", "import os; os.kill(os.getpid(), 9)")
    assert done.returncode and "Traceback" not in done.stderr
    assert "killed" in done.stderr and "memory" in done.stderr and str(tmp_path / "out.ipynb") in done.stderr
    assert "so far" in (tmp_path / "out.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("length", [warm.LONGEST, 160])
def test_a_folder_for_temporary_files_may_have_a_path_of_any_length(tmp_path, length):
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        folder = f"{base}/{'x' * (length - len(base) - 1)}"
        os.mkdir(folder)
        script = (
            "import subprocess, sys, os; from engine.run import warm\n"
            "with warm.process(dict(os.environ), [], ['papermill.execute', 'ipykernel.kernelapp']) as found:\n"
            "    sys.exit(subprocess.run(sys.argv[1:], env=found).returncode)"
        )
        CLIENT[:0] = [sys.executable, "-c", script]
        try:
            done, _ = run(tmp_path, environment(ROOT) | {"TMPDIR": folder}, "print('ran')")
        finally:
            del CLIENT[:3]
        assert done.returncode == 0, done.stderr
        assert os.listdir(folder) == []


@given(st.integers(1, 400))
def test_a_sockets_path_always_fits(length):
    folder = "/" + "x" * length
    before, tempfile.tempdir = tempfile.tempdir, folder
    try:
        found = warm.for_sockets()
    finally:
        tempfile.tempdir = before
    assert len(f"{found}/study12345678/k12345678/k-5".encode()) <= 103
    assert (found == folder) == (length + 1 + 30 <= 103)


@pytest.mark.parametrize(
    ("arguments", "dry", "elsewhere"),
    [
        ([], False, False),
        (["-n"], True, False),
        (["-np"], True, False),
        (["-pn"], True, False),
        (["--dry-run"], True, False),
        (["--dryrun", "--until", "teacher"], True, False),
        (["--profile", "engine/slurm"], False, True),
        (["--profile=engine/slurm"], False, True),
        (["--executor=slurm"], False, True),
        (["-e", "slurm", "-n"], True, True),
        (["--notemp"], False, False),
        (["--until", "teacher", "-R", "svd"], False, False),
    ],
)
def test_snakemakes_arguments_are_parsed_and_not_spelled(arguments, dry, elsewhere):
    asked = study.asked_of_snakemake(arguments)
    assert bool(asked.dryrun) == dry and bool(asked.profile or asked.executor) == elsewhere


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "an hour"])
def test_minutes_must_be_a_number_above_0(monkeypatch, minutes):
    monkeypatch.setattr("sys.argv", ["study.py", "--profile", "smoke", f"--minutes={minutes}"])
    with pytest.raises(SystemExit, match=f"^MINUTES={minutes}: expected a number above 0$"):
        study.main()
