import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from projects import ROOT, environment

from engine.run import warm

CLIENT = [sys.executable, "-I", "-S", str(ROOT / "engine" / "run" / "client.py")]
SLEEPER = """
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid} {os.getppid()}")
time.sleep(600)
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="there is a warm process on Linux only")


@pytest.fixture
def warmed():
    """The environment of a warm process that has imported one module."""
    with warm.process(environment(ROOT), [], ["fractions"]) as found:
        yield found


@pytest.fixture
def script(tmp_path):
    def write(text: str) -> str:
        (tmp_path / "script.py").write_text(text)
        return str(tmp_path / "script.py")

    return write


def ask(environment, *command, **options):
    return subprocess.run([*CLIENT, *command], env=environment, text=True, capture_output=True, timeout=60, **options)


def alive(pid: int) -> bool:
    """Whether ``pid`` runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def start_sleeper(environment, script, tmp_path):
    """A client whose job and the job's child sleep; (client, [job, its child, the warm process])."""
    told = tmp_path / "pids"
    client = subprocess.Popen([*CLIENT, script(SLEEPER), str(told)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 10
    while not (told.exists() and told.read_text().count(" ") == 2):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return client, [int(pid) for pid in told.read_text().split()]


def test_a_job_is_what_a_process_just_started_would_be_but_has_its_modules(warmed, script, tmp_path):
    text = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['MINE'], 'fractions' in sys.modules, __name__)"
    done = ask(warmed | {"MINE": "é"}, script(text), "a b", "", cwd=tmp_path)
    assert done.stdout == f"['a b', ''] {tmp_path} é True __main__\n" and done.returncode == 0
    cold = ask(environment(ROOT) | {"MINE": "é"}, script(text), "a b", "", cwd=tmp_path)
    assert cold.stdout == done.stdout.replace("True", "False")


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("", 0, ""),
        ("raise SystemExit(7)", 7, ""),
        ("raise SystemExit('no such thing')", 1, "no such thing"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + 9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 128 + 9, ""),
    ],
)
def test_exit_status_and_errors_are_those_of_the_job(warmed, script, text, status, said):
    done = ask(warmed, script(text))
    assert done.returncode == status and said in done.stderr


def test_a_module_runs_as_by_dash_m(warmed):
    assert "Beautiful is better than ugly." in ask(warmed, "-m", "this").stdout


@pytest.mark.parametrize("address", ["", "/tmp/a process that has ended otherwise than with its run"])
def test_without_a_warm_process_the_client_runs_the_script_itself(script, address):
    done = ask(environment(ROOT) | {"STUDY_WARM": address}, script("print('fractions' in __import__('sys').modules)"))
    assert done.stdout == "False\n" and done.returncode == 0


def test_a_client_that_comes_after_the_end_of_the_run_starts_nothing(script, tmp_path):
    done = ask(environment(ROOT) | {"STUDY_WARM": str(tmp_path / "removed" / "warm")}, script("print('orphan')"))
    assert done.returncode == 1 and done.stdout == "" and "this run has ended" in done.stderr


def test_a_killed_client_leaves_nothing_and_the_next_job_runs(warmed, script, tmp_path):
    client, (job, child, server) = start_sleeper(warmed, script, tmp_path)
    client.kill()
    client.wait()
    assert gone([job, child]) and alive(server)
    assert ask(warmed, script("print('on')")).stdout == "on\n"


def test_a_client_ends_with_its_parent(warmed, script, tmp_path):
    text = f"import subprocess; subprocess.run({[*CLIENT, script(SLEEPER), str(tmp_path / 'pids')]!r})"
    parent = subprocess.Popen([sys.executable, "-c", text], env=warmed)
    deadline = time.monotonic() + 10
    while not (tmp_path / "pids").exists() or (tmp_path / "pids").read_text().count(" ") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    assert gone([int(pid) for pid in (tmp_path / "pids").read_text().split()][:2])


def test_a_killed_warm_process_takes_its_jobs_along_and_their_clients_fail(warmed, script, tmp_path):
    client, (job, _, server) = start_sleeper(warmed, script, tmp_path)
    os.kill(server, signal.SIGKILL)
    assert client.wait(10) and gone([job])
    assert ask(warmed, script("print('by itself')")).stdout == "by itself\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_who_started_it_and_takes_its_folder_along(script, tmp_path, number):
    text = (
        "import os, signal, time; from engine.run import warm\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # what runs in the background has it ignored
        "with warm.process(dict(os.environ), [], []) as found:\n"
        "    print(found['STUDY_WARM'], flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", text]
    with subprocess.Popen(command, env=environment(ROOT), stdout=-1, stderr=subprocess.DEVNULL, text=True) as starter:
        address = starter.stdout.readline().strip()
        client, pids = start_sleeper(environment(ROOT) | {"STUDY_WARM": address}, script, tmp_path)
        starter.send_signal(number)
    assert gone(pids) and client.wait(10)
    assert not Path(address).parent.exists()


def test_it_ends_even_if_it_is_told_to_at_the_moment_at_which_it_forks(script, tmp_path):
    (tmp_path / "told_at_a_fork.py").write_text(
        "import os, signal\nos.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))\n"
    )
    with warm.process(environment(ROOT) | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}, [], ["told_at_a_fork"]) as found:
        ask(found, script("print('whatever')"))
        deadline = time.monotonic() + 10
        while os.path.exists(os.path.dirname(found["STUDY_WARM"])):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_many_jobs_at_once(warmed, script):
    text = script("import sys, time; time.sleep(0.2); print(sys.argv[1])")
    jobs = [subprocess.Popen([*CLIENT, text, str(i)], env=warmed, stdout=-1, text=True) for i in range(20)]
    assert [job.communicate(timeout=60)[0] for job in jobs] == [f"{i}\n" for i in range(20)]


def test_what_every_node_imports_starts_no_thread_that_a_fork_would_lack(script):
    with warm.process(environment(ROOT), []) as found:
        text = "import os, torch; print(len(os.listdir(f'/proc/{os.getppid()}/task')), torch.get_num_threads())"
        done = ask(found, script(text))
    assert done.stdout.split()[0] == "1", done
