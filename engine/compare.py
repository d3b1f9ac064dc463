"""Two runs side by side: test accuracy and bytes of every node, and how they differ."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from engine.machine import refusals
from engine.parameters import ROOT
from studylib import sweep

COMPARED = ("node", "seed", "test_accuracy", "bytes_file")
USAGE = "make compare A=<profile or sweep.csv> B=<profile or sweep.csv>"


def table_of(name: str) -> pd.DataFrame:
    """The rows of a run by its profile, of a sweep.csv by its path, or of a profile published in figures/."""
    from studylib import store  # two seconds of import, which study.py shall not wait for

    published = ROOT / "figures" / "results.csv"
    own = [ROOT / "runs" / name / "sweep.csv", *([Path(name)] if name.endswith(".csv") else [])]
    try:
        for path in own:
            if path.exists():
                with refusals(path, "nothing was compared"):
                    return sweep.read_table(path, *COMPARED)
        with refusals(published, "nothing was compared"):
            every = published.exists() and sweep.read_table(published, "profile", *COMPARED)
    except store.CheckpointError as error:
        sys.exit(str(error))
    rows = every[every["profile"] == name] if every is not False else pd.DataFrame()
    if rows.empty:
        sys.exit(f"{name!r}: no runs/{name}/sweep.csv, no such .csv file, nor published. {USAGE}")
    return rows


def side_by_side(a: str, b: str) -> str:
    """The nodes that both runs have, a line each."""
    from studylib import report  # two seconds of import, which study.py shall not wait for

    rows = []
    for _, row in sweep.compare(table_of(a), table_of(b)).iterrows():
        rows.append(
            {
                "node": row["node"],
                f"{a} %": report.plus_minus(100 * row["test_accuracy_a"], float("nan"), 2),
                f"{b} % ": report.plus_minus(100 * row["test_accuracy_b"], float("nan"), 2),
                "B − A, points": report.plus_minus(100 * row["difference"], 100 * row["difference_sd"], 2),
                f"{a} kB": report.plus_minus(row["bytes_file_a"] / 1000, float("nan"), 1),
                f"{b} kB ": report.plus_minus(row["bytes_file_b"] / 1000, float("nan"), 1),
                "bytes B / A": report.plus_minus(row["bytes_ratio"], float("nan"), 3),
            }
        )
    note = "test accuracy, means over seeds; ± is the deviation of the difference over the seeds that both have"
    return f"{pd.DataFrame(rows).to_string(index=False)}\n{note}"


def main(a: str, b: str) -> None:
    if not a or not b:
        sys.exit(USAGE)
    print(side_by_side(a, b))


if __name__ == "__main__":
    main(*sys.argv[1:3])
