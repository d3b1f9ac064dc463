"""Runs each notebook and keeps its outputs: in its default form in itself, in its reduced form below tests/.

The reduced form has the least parameters that run every cell (tests/reduced.yaml). It keeps only the outputs that
nbval compares.

python tests/store_outputs.py [--reduced] [01 08 …]  (those whose names begin so; default: all)
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import nbformat

from engine.run import execute
from engine.settings import chapters
from engine.settings.reading import ROOT, read_yaml
from studylib.disk import files

TESTS = ROOT / "tests"
CHECKED = "NBVAL_CHECK_OUTPUT"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("beginnings", nargs="*", default=[""], help="of the notebooks' names; default: all")
    parser.add_argument("--reduced", action="store_true", help="only the reduced forms below tests/")
    args = parser.parse_args()
    for notebook in chapters.notebooks().values():
        if not notebook.name.startswith(tuple(args.beginnings)):
            continue
        if not args.reduced:
            write(notebook, run(notebook, {}))
        path = TESTS / "notebooks" / "reduced" / notebook.name
        given = read_yaml(TESTS / "reduced.yaml")[notebook.stem] | {"out": f"runs/notebooks/reduced/{notebook.stem}"}
        content = run(notebook, given)
        for cell in content.cells:
            if cell.cell_type == "code" and CHECKED not in cell.source:
                cell.outputs = []
        write(path, content)
        subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", path], check=True)
        print(f"{notebook.name}: outputs stored", flush=True)


def run(notebook: Path, given: dict) -> nbformat.NotebookNode:
    """``notebook`` executed with the parameters ``given``, without what differs from run to run."""
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / notebook.name
        execute.execute(notebook, executed, given)
        content = nbformat.read(executed, as_version=4)
    content.metadata = {"kernelspec": content.metadata["kernelspec"], "language_info": {"name": "python"}}
    for number, cell in enumerate(content.cells):
        cell.metadata = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
        cell.id = f"cell-{number}"
    nbformat.validate(content)
    return content


def write(path: Path, content: nbformat.NotebookNode) -> None:
    files.write_bytes(path, (nbformat.writes(content) + "\n").encode())  # a line of code, a line of the file


if __name__ == "__main__":
    main()
