"""Two runs side by side, or a run beside what is published of it: accuracy and bytes of every node."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pandas as pd

from engine.run.machine import refusals
from engine.settings.reading import ROOT
from studylib.disk.files import CheckpointError, read_json
from studylib.experiments import agreement
from studylib.tree import table

COLUMNS = ("node", "seed", "test_accuracy", "bytes_file")
USAGE = "make compare A=<profile or sweep.csv> B=<profile, sweep.csv, or the word published>"


def table_of(name: str) -> pd.DataFrame:
    """The rows of a run, by its name, or of a sweep.csv, by its path."""
    path = Path(name) if name.endswith(".csv") else ROOT / "runs" / name / "sweep.csv"
    if not path.exists():
        sys.exit(f"{name!r}: no {path}. {USAGE}")
    with refusals(path, "nothing was compared"):
        return table.read_table(path, *COLUMNS)


def side_by_side(a: str, b: str) -> str:
    """The nodes that both runs have, a line each."""
    return agreement.side_by_side(table_of(a), table_of(b), a, b)


def with_published(name: str) -> str:
    """Every node of the run ``name`` beside the published one, below what the two differ in; empty without any."""
    published, told = ROOT / "figures" / name / "nodes.csv", ROOT / "runs" / name / "study.json"
    if not published.exists():
        return ""
    ours, theirs = read_json(told) if told.exists() else {}, read_json(ROOT / "figures" / "studies.json").get(name, {})
    found = agreement.beside(table_of(name), table.read_table(published, *COLUMNS))
    return "\n".join([*(f"- {said}" for said in agreement.differences(ours, theirs)), agreement.beside_text(found)])


def main(a: str, b: str) -> None:
    if not a or not b:
        sys.exit(USAGE)
    try:
        print(side_by_side(a, b) if b != "published" else with_published(a) or sys.exit(f"figures/{a}: not published"))
    except CheckpointError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*[*sys.argv[1:], "", ""][:2])
