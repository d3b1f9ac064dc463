"""What is published of a chapter: rows, claims, settings and where they are from, in one JSON file a study."""

import math
from pathlib import Path
from typing import Any

import pandas as pd

from studylib.disk import files

FILE = "chapter.json"  # in the folder where a chapter was run; published as figures/<study>/<chapter>.json
NAMES = {str: "string", dict: "object", list: "array"}
KEYS = {"chapter": str, "about": dict, "settings": dict, "metrics": dict, "rows": dict, "claims": list}


class Published:
    """A chapter as a study published it; nothing is trained to show it.

    Args:
        folder: of the study, such as ``figures/digits``: absolute, or below the study's root.
        chapter: name of the chapter, such as ``04_svd``.

    Raises:
        studylib.disk.files.CheckpointError: the study has not published that chapter, or the file is damaged.
    """

    def __init__(self, folder: str | Path, chapter: str):
        self.folder, self.file = Path(folder), files.resolve(folder) / f"{chapter}.json"
        if not self.file.exists():
            there = sorted(path.stem for path in self.file.parent.glob("[0-9][0-9]_*.json"))
            has = f"it has {', '.join(there)}" if there else "nothing is published there"
            raise files.CheckpointError(
                f"published={str(folder)!r}: expected a study that has published {chapter}; {has}. An empty text makes "
                "the rows here"
            )
        self.content = files.read_json(self.file)
        for key, kind in KEYS.items():
            if not isinstance(self.content, dict) or not isinstance(self.content.get(key), kind):
                raise files.CheckpointError(f"{self.file}: expected {key}, which is a JSON {NAMES[kind]}")
        for name, rows in self.content["rows"].items():
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise files.CheckpointError(f"{self.file}: rows.{name}: expected a JSON array of objects")

    @property
    def about(self) -> dict:
        """Where the rows come from: data, seeds, commit, hardware, date."""
        return self.content["about"]

    def rows(self, name: str) -> pd.DataFrame:
        """The table ``name``.

        Raises:
            studylib.disk.files.CheckpointError: the study has no such table; names those that it has.
        """
        if name not in self.content["rows"]:
            known = ", ".join(self.content["rows"])
            raise files.CheckpointError(f"{self.file}: it has no rows {name!r}: expected one of {known}")
        return frame(self.content["rows"][name])


def frame(rows: list[dict]) -> pd.DataFrame:
    """JSON's rows as a table: a column in which null is all there is, or stands among numbers, is of floats."""
    found = pd.DataFrame(rows)
    for name in found:
        values = [row.get(name) for row in rows]
        if None in values and all(value is None or isinstance(value, int | float) for value in values):
            found[name] = found[name].astype(float)
    return found


def plain(value: Any) -> Any:
    """``value`` as JSON has it: tables are rows, numbers of numpy or torch Python's, what is not finite null."""
    if isinstance(value, pd.DataFrame):
        value = value.to_dict("records")
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
