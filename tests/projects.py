"""A copy of the project in a folder of the test's own, to edit and to run without touching the real one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ["Snakefile", "Makefile", "README.md", "CITATION.cff", "engine", "studylib", "notebooks", "papermill_params"]


def copy_project(target: Path, *more: str) -> Path:
    for name in (*PARTS, *more):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", ".lock", "views"))
        else:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return target


def environment(project: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    fixed = {"PATH": path, "PYTHONPATH": str(project), "STUDY_ROOT": str(project), "OMP_WAIT_POLICY": "passive"}
    return {k: v for k, v in os.environ.items() if not k.startswith("COV")} | fixed


def study(project: Path, *arguments: str, **surroundings: str) -> subprocess.CompletedProcess:
    """`engine/study.py` in ``project``, its output as one text; ``surroundings`` are environment variables."""
    command = [sys.executable, "engine/study.py", *arguments]
    return subprocess.run(
        command,
        cwd=project,
        env=environment(project) | surroundings,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} does not hold {old!r}"
    path.write_text(text.replace(old, new))
