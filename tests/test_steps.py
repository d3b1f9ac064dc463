"""What `make test` runs, and how."""

import sys

import pytest

from engine.settings import parameters
from engine.tools import test as steps

SAY = [sys.executable, "-c", "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[2]))"]


def test_after_a_command_that_fails_none_is_begun(tmp_path, capfdbinary):
    third = [sys.executable, "-c", f"open({str(tmp_path / 'begun')!r}, 'w')"]
    commands = [[*SAY, "one", "0"], [*SAY, "two", "3"], third]
    assert steps.Step(commands, beside=1).run() == [" ".join(commands[1])]
    assert not (tmp_path / "begun").exists()
    shown = capfdbinary.readouterr().out
    assert b"one\n" in shown and b"two\n" in shown
    assert steps.Step(commands[:1], beside=2).run() == [] and b"one\n" in capfdbinary.readouterr().out
    wait = [sys.executable, "-c", "import time; time.sleep(2)"]
    assert steps.Step([wait, commands[1], *[third] * 3], beside=2).run() == [" ".join(commands[1])]
    (missing,) = steps.Step([["no-such-program"], *[third] * 3], beside=1).run()
    assert missing.startswith("no-such-program: ") and not (tmp_path / "begun").exists()


def test_every_notebook_is_run_against_its_stored_outputs_as_it_is_and_reduced():
    commands = [command for _, several in steps.STEPS.values() for command in several]
    named = [part for command in commands if "--nbval-lax" in command for part in command if part.endswith(".ipynb")]
    folders = ("notebooks", "tests/notebooks/reduced")
    assert sorted(named) == sorted(f"{f}/{path.name}" for f in folders for path in parameters.notebooks().values())


def test_commands_share_the_processors_and_one_that_fails_ends_the_run(tmp_path, monkeypatch, capfdbinary):
    def waits(mine, other, code):  # each goes on only once the other has begun
        begin = f"import os, sys, time; open({mine!r}, 'w').close()\n"
        wait = f"for _ in range(3000):\n  if os.path.exists({other!r}): break\n  time.sleep(0.01)\nelse: sys.exit(9)\n"
        return [sys.executable, "-c", begin + wait + f"print({code}); sys.exit({code})"]

    a, b, threads = str(tmp_path / "a"), str(tmp_path / "b"), "import os; print(os.environ['OMP_NUM_THREADS'])"
    monkeypatch.setattr(steps.os, "sched_getaffinity", lambda pid: set(range(8)))
    both = [waits(a, b, 0), waits(b, a, 7), [sys.executable, "-c", threads]]
    monkeypatch.setattr(steps, "STEPS", {"pair": (2, both), "never": (1, [[*SAY, "never", "0"]])})
    with pytest.raises(SystemExit, match="== pair: failed"):
        steps.main()
    shown = capfdbinary.readouterr().out
    assert b"7\n" in shown and b"never" not in shown
    monkeypatch.setattr(steps, "STEPS", {"pair": (2, [waits(a, b, 0), waits(b, a, 0), both[2]])})
    steps.main()
    shown = capfdbinary.readouterr().out
    assert b"== pair: passed" in shown and b"\n4\n" in shown
