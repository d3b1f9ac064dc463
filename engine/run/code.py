"""Which code a notebook depends on, so that an edit reruns what it can change and nothing else."""

import ast
import hashlib
import json
import re
from pathlib import Path

from engine.settings.reading import ROOT
from studylib.disk.code import essence, essence_of_files, reached

PARAMETERS = "parameters"  # tag of the cell whose values are handed in: they count as such, not as code
LESSON = "lesson"  # tag of the cells that a chapter has and a node of the tree does without
PUBLISHED = ".slnc"  # how a published file's name ends; studylib.coding.restore, which is slow to import, says so, too


def digest(path: Path, lesson: bool = True) -> str:
    """A hash of a notebook's cells (or a script) and of every module of studylib it uses, directly or not.

    Without ``lesson``, cells tagged so do not count, nor the modules used only there. Outputs, execution counts,
    comments and docstrings never do: running a notebook by hand or mending a sentence retrains nothing.
    """
    code = _code_of(path, lesson)
    modules = essence_of_files(reached(code, ROOT / "studylib"))
    return hashlib.sha256(essence(code).encode() + modules).hexdigest()[:16]


def names(notebook: Path, lesson: bool = True) -> set[str]:
    """Every name that a notebook's code reads or sets; without ``lesson``, only in the cells of a node."""
    return {item.id for item in ast.walk(ast.parse(_code_of(notebook, lesson))) if isinstance(item, ast.Name)}


def of_files(section: dict) -> str:
    """A hash of the published files that a profile's section names; empty where it names none."""
    named = [ROOT / path for path in re.findall(rf'"([^"]+{re.escape(PUBLISHED)})"', json.dumps(section))]
    found = hashlib.sha256(b"".join(path.read_bytes() for path in named if path.is_file()))
    return found.hexdigest()[:16] if named else ""


def _code_of(path: Path, lesson: bool) -> str:
    """The code of a script, or of a notebook's cells but for that of its parameters."""
    code = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return code
    without = {PARAMETERS} if lesson else {PARAMETERS, LESSON}
    cells = [cell for cell in json.loads(code)["cells"] if cell["cell_type"] == "code"]
    counted = [cell for cell in cells if not without & set(cell["metadata"].get("tags", []))]
    lines = [line for cell in counted for line in "".join(cell["source"]).splitlines()]
    return "\n".join(line for line in lines if not line.lstrip().startswith(("%", "!")))
