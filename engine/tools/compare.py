"""Two runs side by side, or a run beside what is published of it: accuracy and bytes of every node."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pandas as pd

from engine.run.machine import refusals
from engine.settings.parameters import ROOT
from studylib.tree import table

COMPARED = ("node", "seed", "test_accuracy", "bytes_file")
USAGE = "make compare A=<profile or sweep.csv> B=<profile, sweep.csv, or the word published>"
PUBLISHED = "published"


def table_of(name: str) -> pd.DataFrame:
    """The rows of a run or a published study, by its profile, or of a sweep.csv, by its path."""
    own = [Path(name)] if name.endswith(".csv") else []
    for path in (ROOT / "runs" / name / "sweep.csv", *own, _published(name)):
        if path.exists():
            return _read(path)
    sys.exit(f"{name!r}: no runs/{name}/sweep.csv, no such .csv file, nor published. {USAGE}")


def _published(name: str) -> Path:
    return ROOT / "figures" / name / "nodes.csv"


def _read(path: Path) -> pd.DataFrame:
    from studylib.disk import files  # two seconds of import, which study.py shall not wait for

    try:
        with refusals(path, "nothing was compared"):
            return table.read_table(path, *COMPARED)
    except files.CheckpointError as error:
        sys.exit(str(error))


def side_by_side(a: str, b: str) -> str:
    """The nodes that both runs have, a line each."""
    from studylib.results.tables import plus_minus  # two seconds of import, which study.py shall not wait for

    rows = table.compare(table_of(a), table_of(b))
    shown = pd.DataFrame({"node": rows["node"]})
    for title, column, scale, digits, deviation in (
        (f"{a} %", "test_accuracy_a", 100, 2, None),
        (f"{b} % ", "test_accuracy_b", 100, 2, None),
        ("B − A, points", "difference", 100, 2, "difference_sd"),
        (f"{a} kB", "bytes_file_a", 1e-3, 1, None),
        (f"{b} kB ", "bytes_file_b", 1e-3, 1, None),
        ("bytes B / A", "bytes_ratio", 1, 3, None),
    ):
        spread = rows[deviation] if deviation else [float("nan")] * len(rows)
        shown[title] = [plus_minus(scale * x, scale * s, digits) for x, s in zip(rows[column], spread, strict=True)]
    note = "test accuracy, means over seeds; ± is the deviation of the difference over the seeds that both have"
    return f"{shown.to_string(index=False)}\n{note}"


def with_published(name: str) -> str:
    """Every node of the run ``name`` beside the published one of that profile; empty where none is published.

    A line per node: within the published interval, outside, or without one; above, what the two differ in.
    """
    from studylib.disk import files  # two seconds of import, which study.py shall not wait for
    from studylib.results import agreement
    from studylib.results.tables import plus_minus

    if not _published(name).exists():
        return ""
    here, told = ROOT / "runs" / name / "study.json", ROOT / "figures" / "studies.json"
    try:
        with refusals(told, "nothing was compared"):
            ours, theirs = (files.read_json(path) if path.exists() else {} for path in (here, told))
    except files.CheckpointError as error:
        sys.exit(str(error))
    differences = agreement.differences(ours, theirs.get(name, {}))
    found = agreement.beside(table_of(name), _read(_published(name)))
    published = zip(100 * found["published"], 100 * found["half"], strict=True)
    shown = pd.DataFrame(
        {
            "node": found["node"],
            "this run %": [f"{100 * value:.2f}" for value in found["ours"]],
            "published %": [plus_minus(value, half, 2) for value, half in published],
            "agreement": found["verdict"],
            "bytes / published": [f"{ratio:.3f}" for ratio in found["bytes_ratio"]],
        }
    )
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found["verdict"].value_counts().items())
    note = f"± is where the mean of {found['seeds'].max()} seeds is expected (95 %); of {len(found)} nodes {counts}"
    return "\n".join([*(f"- {text}" for text in differences), shown.to_string(index=False), note])


def main(a: str, b: str) -> None:
    if not a or not b:
        sys.exit(USAGE)
    if b != PUBLISHED:
        print(side_by_side(a, b))
        return
    if not (ROOT / "runs" / a / "sweep.csv").exists():
        sys.exit(f"runs/{a}/sweep.csv: not run here, so that nothing stands beside what is published. {USAGE}")
    print(with_published(a) or f"{a!r}: not published in figures/")


if __name__ == "__main__":
    main(*sys.argv[1:3])
