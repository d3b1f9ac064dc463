"""Chapters executed as the study executes them, what was called meanwhile, and the pictures that a notebook holds."""

import ast
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from projects import ROOT, environment

from engine.settings import chapters
from engine.settings.reading import read_yaml

REDUCED = read_yaml(ROOT / "tests" / "reduced.yaml")
CHAPTERS = {path.stem: chapters.declared()[key] for key, path in chapters.notebooks().items()}
BRINGS = {"federated": "flwr"}  # extra → a module that it brings
APART = [n for n, each in CHAPTERS.items() if each.extra and not importlib.util.find_spec(BRINGS[each.extra])]
NOTED = "STUDY_NOTED"  # of the environment: the file in which each call of WATCHED is noted
WATCHED = {"studylib.training.loop": "fit", "studylib.data.datasets": "load"}
HOOK = f"""
import functools, importlib.abc, importlib.util, os, sys

WATCHED = {WATCHED}


class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in WATCHED or name in self.found:
            return None
        self.found.add(name)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            function = getattr(module, WATCHED[name])

            @functools.wraps(function)
            def noting(*args, **kwargs):
                if file := os.environ.get("{NOTED}"):
                    with open(file, "a") as noted:
                        noted.write(name + "." + WATCHED[name] + "\\n")
                return function(*args, **kwargs)

            setattr(module, WATCHED[name], noting)

        spec.loader.exec_module = exec_module
        return spec

    found = set()


sys.meta_path.insert(0, Watch())
"""


@dataclasses.dataclass(frozen=True)
class Executed:
    """A chapter that has been executed: its folder, with the notebook in it."""

    out: Path
    done: subprocess.CompletedProcess

    @property
    def notebook(self) -> Path:
        return self.out / "notebook.ipynb"

    @property
    def calls(self) -> set[str]:
        """Which of :data:`WATCHED` were called in its kernel."""
        file = self.out / "calls.txt"
        return set(file.read_text().split()) if file.exists() else set()

    def passed(self) -> "Executed":
        assert self.done.returncode == 0, self.done.stdout + self.done.stderr
        return self


def watched(folder: Path) -> dict[str, str]:
    """The surroundings of a process of whose kernels calls are noted; ``folder`` gets what notes them."""
    (folder / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    found = environment(ROOT) | {"MPLBACKEND": "Agg"}  # the user's own choice of a backend must not count
    return found | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def reduced(name: str, out: Path) -> dict:
    """The parameters of a chapter's reduced form, written to ``out``; without its extra the test is skipped."""
    if name in APART:
        pytest.skip(f"the extra {CHAPTERS[name].extra} is not installed")
    return REDUCED[name] | {"out": str(out)}


def execute(name: str, out: Path, given: dict, surroundings: dict) -> Executed:
    """The chapter run as the study runs it: through a warm process if ``surroundings`` name one."""
    command = [
        sys.executable,
        "-I",
        "-S",
        "engine/run/client.py",
        "engine/run/execute.py",
        str(CHAPTERS[name].notebook),
    ]
    command += [str(out / "notebook.ipynb"), "--parameters", json.dumps(given | {"out": str(out)})]
    environs = surroundings | {NOTED: str(out / "calls.txt")}
    return Executed(out, subprocess.run(command, cwd=ROOT, env=environs, text=True, capture_output=True))


def _code(notebook: Path) -> list:
    return [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]


def pictures_of(notebook: Path) -> tuple[int, int]:
    """How many pictures the code of ``notebook`` shows, and how many sentences instead, of what is not published.

    What it draws on a condition counts: in every run of the tests there is something to draw.
    """
    counts, studies = [0, 0], {}
    for cell in _code(notebook):
        nodes = list(ast.walk(ast.parse(cell.source)))
        for node in nodes:
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Beside("):
                folder, chapter = map(ast.literal_eval, node.value.args)
                file = ROOT / folder / f"{chapter}.json"
                studies[node.targets[0].id] = set(json.loads(file.read_text())["rows"]) if file.exists() else set()
        for node in nodes:
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            there = True
            if node.func.attr == "show_published":
                there = (ROOT / "figures" / "cited" / f"{ast.literal_eval(node.args[0])}.png").is_file()
            elif node.func.attr not in ("figure", "table"):
                continue
            elif (study := ast.unparse(node.func.value)) in studies:
                named = {ast.literal_eval(each) for each in (node.args[0], *node.args[3:])}
                there = named <= studies[study]
            if not there or node.func.attr in ("figure", "show_published"):
                counts[not there] += 1
    return tuple(counts)


def pictures_in(notebook: Path) -> tuple[int, int]:
    """How many pictures ``notebook`` holds among its outputs, and how many sentences in the place of one."""
    shown = [output.get("data", {}) for cell in _code(notebook) for output in cell.get("outputs", [])]
    absent = [data for data in shown if "not in this copy of" in data.get("text/markdown", "")]
    return sum("image/png" in data for data in shown), len(absent)


def texts_in(notebook: Path) -> list[str]:
    """What ``notebook`` says among its outputs: printed lines, Markdown and HTML."""
    found = []
    for cell in _code(notebook):
        for output in cell.get("outputs", []):
            data = {output.name: output.text} if output.output_type == "stream" else output.get("data", {})
            found += [data[kind] for kind in ("stdout", "text/markdown", "text/html") if kind in data]
    return found
