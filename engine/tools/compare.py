"""Two runs side by side, or a run beside what is published of it: accuracy and bytes of every node."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pandas as pd

from engine.run.machine import refusals
from engine.settings.reading import ROOT
from studylib.disk.files import CheckpointError, read_json
from studylib.experiments import agreement
from studylib.results import tables
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


def _texts(values: pd.Series, digits: int, spread: pd.Series | float = float("nan")) -> list[str]:
    both = pd.DataFrame({"value": values, "spread": spread})
    return [tables.plus_minus(value, half, digits) for value, half in both.itertuples(index=False)]


def side_by_side(a: str, b: str) -> str:
    """The nodes that both runs have, a line each."""
    rows = table.compare(table_of(a), table_of(b))
    shown = {
        "node": rows["node"],
        f"{a} %": _texts(100 * rows["test_accuracy_a"], 2),
        f"{b} % ": _texts(100 * rows["test_accuracy_b"], 2),
        "B − A, points": _texts(100 * rows["difference"], 2, 100 * rows["difference_sd"]),
        f"{a} kB": _texts(rows["bytes_file_a"] / 1000, 1),
        f"{b} kB ": _texts(rows["bytes_file_b"] / 1000, 1),
        "bytes B / A": _texts(rows["bytes_ratio"], 3),
    }
    note = "test accuracy, means over seeds; ± is the deviation of the difference over the seeds that both have"
    return f"{pd.DataFrame(shown).to_string(index=False)}\n{note}"


def with_published(name: str) -> str:
    """Every node of the run ``name`` beside the published one of that profile; empty where none is published.

    A line per node: within the published interval, outside, or without one; above, what the two differ in.
    """
    published, told = ROOT / "figures" / name / "nodes.csv", ROOT / "runs" / name / "study.json"
    if not published.exists():
        return ""
    ours, theirs = read_json(told) if told.exists() else {}, read_json(ROOT / "figures" / "studies.json").get(name, {})
    found = agreement.beside(table_of(name), table.read_table(published, *COLUMNS))
    shown = {
        "node": found["node"],
        "this run %": _texts(100 * found["ours"], 2),
        "published %": _texts(100 * found["published"], 2, 100 * found["half"]),
        "agreement": found["verdict"],
        "bytes / published": _texts(found["bytes_ratio"], 3),
    }
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found["verdict"].value_counts().items())
    note = f"± is where the mean of {found['seeds'].max()} seeds is expected (95 %); of {len(found)} nodes {counts}"
    said = [f"- {text}" for text in agreement.differences(ours, theirs)]
    return "\n".join([*said, pd.DataFrame(shown).to_string(index=False), note])


def main(a: str, b: str) -> None:
    if not a or not b:
        sys.exit(USAGE)
    try:
        print(side_by_side(a, b) if b != "published" else with_published(a) or sys.exit(f"figures/{a}: not published"))
    except CheckpointError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(*[*sys.argv[1:], "", ""][:2])
