"""Runs each notebook and keeps its outputs: in its default form in itself, in its reduced form below tests/.

The reduced form has the least parameters that run every cell (tests/reduced.yaml); only outputs that nbval compares
stay in it. python engine/tools/store_outputs.py [--reduced] [01 08 …]  (those whose names begin so; default: all)
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import nbformat

from engine.run import execute
from engine.settings import parameters
from engine.settings.reading import read_yaml
from studylib.disk import files

KEPT = {"tags"}  # of a cell's metadata; times and papermill's notes would change with every run
REDUCED = parameters.ROOT / "tests" / "notebooks" / "reduced"
CHECKED = "NBVAL_CHECK_OUTPUT"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("beginnings", nargs="*", default=[""], help="of the notebooks' names; default: all")
    parser.add_argument("--reduced", action="store_true", help="only the reduced forms below tests/")
    args = parser.parse_args()
    for notebook in parameters.notebooks().values():
        if not notebook.name.startswith(tuple(args.beginnings)):
            continue
        if not args.reduced:
            write(notebook, run(notebook, {}))
        write(REDUCED / notebook.name, reduced(notebook))
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", REDUCED / notebook.name], check=True)
        print(f"{notebook.name}: outputs stored", flush=True)


def reduced(notebook: Path) -> nbformat.NotebookNode:
    """``notebook`` executed in its reduced form, with those of its outputs that nbval compares."""
    given = read_yaml(parameters.ROOT / "tests" / "reduced.yaml")[notebook.stem]
    content = run(notebook, given | {"out": f"runs/notebooks/reduced/{notebook.stem}"})
    for cell in content.cells:
        if cell.cell_type == "code" and CHECKED not in cell.source:
            cell.outputs = []
    return content


def run(notebook: Path, given: dict) -> nbformat.NotebookNode:
    """``notebook`` executed with the parameters ``given``, without what differs from run to run."""
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / notebook.name
        execute.execute(notebook, executed, given)
        content = nbformat.read(executed, as_version=4)
    content.metadata = {key: content.metadata[key] for key in ("kernelspec", "language_info")}
    content.metadata["language_info"] = {"name": "python"}
    for number, cell in enumerate(content.cells):
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in KEPT}
        cell.id = f"cell-{number}"
    nbformat.validate(content)
    return content


def write(path: Path, content: nbformat.NotebookNode) -> None:
    files.write_bytes(path, (nbformat.writes(content) + "\n").encode())  # a line of code, a line of the file


if __name__ == "__main__":
    main()
