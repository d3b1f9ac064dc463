"""A copy of the project in a folder of the test's own, to edit and to run without touching the real one."""

import ast
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from papermill import inspect_notebook

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


def study(
    project: Path, *arguments: str, prefix: list[str] | None = None, **surroundings: str
) -> subprocess.CompletedProcess:
    """`engine/run/study.py` in ``project``, its output as one text; ``surroundings`` are environment variables."""
    command = [*(prefix or []), sys.executable, "engine/run/study.py", *arguments]
    return subprocess.run(
        command,
        cwd=project,
        env=environment(project) | surroundings,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def types_of(notebook: Path) -> dict[str, str]:
    """Parameter → type name, from the notebook's parameters cell."""
    return {name: about["inferred_type_name"] for name, about in inspect_notebook(str(notebook)).items()}


def defaults_of(notebook: Path) -> dict:
    """Parameter → the value that it has in the notebook's parameters cell."""
    return {name: ast.literal_eval(about["default"]) for name, about in inspect_notebook(str(notebook)).items()}


@contextlib.contextmanager
def read_only(*folders: Path) -> Iterator[list[str]]:
    """Folders in which nobody may write; what a command has to start with so that root may not, either."""
    prefix = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    if prefix and (
        not shutil.which("setpriv") or subprocess.run([*prefix, "true"], stderr=subprocess.DEVNULL).returncode
    ):
        pytest.skip("this root writes everywhere")
    paths = [path for folder in folders for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    modes = {path: path.stat().st_mode for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield prefix
    finally:
        for path, mode in modes.items():
            if path.exists():
                path.chmod(mode)


def tree_of(folder: Path) -> dict[str, bytes | None]:
    """Everything below ``folder``, files with what is in them; but for what Python leaves of its own."""
    paths = [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in paths}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} does not hold {old!r}"
    path.write_text(text.replace(old, new))
