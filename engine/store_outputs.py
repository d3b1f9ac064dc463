"""Runs each notebook in its default form and keeps the outputs in it: the notebook as stored is as tested.

python engine/store_outputs.py [01 08 …]  (those whose names begin so; default: all)
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nbformat

from engine import execute, parameters
from studylib import store

KEPT = {"tags"}  # of a cell's metadata; times and papermill's notes would change with every run


def main() -> None:
    wanted = tuple(sys.argv[1:]) or ("",)
    for notebook in [path for path in parameters.notebooks().values() if path.name.startswith(wanted)]:
        with tempfile.TemporaryDirectory() as folder:
            executed = Path(folder) / notebook.name
            execute.execute(notebook, executed, {})
            content = nbformat.read(executed, as_version=4)
        content.metadata = {key: content.metadata[key] for key in ("kernelspec", "language_info")}
        content.metadata["language_info"] = {"name": "python"}
        for cell in content.cells:
            cell.metadata = {key: value for key, value in cell.metadata.items() if key in KEPT}
        nbformat.validate(content)
        store.write_bytes(notebook, (nbformat.writes(content) + "\n").encode())  # a line of code, a line of the file
        print(f"{notebook.name}: outputs stored", flush=True)


if __name__ == "__main__":
    main()
