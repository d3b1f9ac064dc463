"""What `make test` runs, and how."""

import os
import sys

import pytest

from engine import parameters
from engine import test as steps

SAY = [sys.executable, "-c", "import sys; print(sys.argv[1]); sys.exit(int(sys.argv[2]))"]


def test_a_lane_stops_at_the_first_command_that_fails_and_keeps_what_was_printed():
    lane = [[*SAY, "one", "0"], [*SAY, "two", "3"], [*SAY, "three", "0"]]
    failed, printed = steps.follow(lane, dict(os.environ), alone=False)
    assert failed == " ".join(lane[1]) and printed.split() == [b"one", b"two"]
    assert steps.follow(lane[:1], dict(os.environ), alone=False) == ("", printed[:4])


def test_every_notebook_is_run_against_its_stored_outputs():
    commands = [command for lanes in steps.STEPS.values() for lane in lanes for command in lane]
    named = [part for command in commands if "--nbval-lax" in command for part in command if part.endswith(".ipynb")]
    assert sorted(named) == sorted(f"notebooks/{path.name}" for path in parameters.notebooks().values())


def test_lanes_run_side_by_side_and_any_that_fails_ends_the_run(tmp_path, monkeypatch, capfdbinary):
    def waits(mine, other, code):  # each goes on only once the other has begun
        begin = f"import os, sys, time; open({mine!r}, 'w').close()\n"
        wait = f"for _ in range(3000):\n  if os.path.exists({other!r}): break\n  time.sleep(0.01)\nelse: sys.exit(9)\n"
        return [sys.executable, "-c", begin + wait + f"print({code}); sys.exit({code})"]

    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    both = [[waits(a, b, 0)], [waits(b, a, 7)]]
    monkeypatch.setattr(steps, "STEPS", {"pair": both, "never": [[[*SAY, "never", "0"]]]})
    with pytest.raises(SystemExit, match="== pair: failed"):
        steps.main()
    shown = capfdbinary.readouterr().out
    assert b"0\n" in shown and b"7\n" in shown and b"never" not in shown
    monkeypatch.setattr(steps, "STEPS", {"pair": [[waits(a, b, 0)], [waits(b, a, 0)]]})
    steps.main()
    assert b"== pair: passed" in capfdbinary.readouterr().out
