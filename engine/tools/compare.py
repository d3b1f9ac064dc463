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
    """The rows of a run by its profile, of a sweep.csv by its path, or of a profile published in figures/."""
    from studylib.disk import files  # two seconds of import, which study.py shall not wait for

    published = ROOT / "figures" / name / "nodes.csv"
    own = [ROOT / "runs" / name / "sweep.csv", *([Path(name)] if name.endswith(".csv") else [])]
    try:
        for path in own:
            if path.exists():
                with refusals(path, "nothing was compared"):
                    return table.read_table(path, *COMPARED)
        with refusals(published, "nothing was compared"):
            rows = table.read_table(published, *COMPARED) if published.exists() else pd.DataFrame()
    except files.CheckpointError as error:
        sys.exit(str(error))
    if rows.empty:
        sys.exit(f"{name!r}: no runs/{name}/sweep.csv, no such .csv file, nor published. {USAGE}")
    return rows


def side_by_side(a: str, b: str) -> str:
    """The nodes that both runs have, a line each."""
    from studylib.results import tables  # two seconds of import, which study.py shall not wait for

    rows = []
    for _, row in table.compare(table_of(a), table_of(b)).iterrows():
        rows.append(
            {
                "node": row["node"],
                f"{a} %": tables.plus_minus(100 * row["test_accuracy_a"], float("nan"), 2),
                f"{b} % ": tables.plus_minus(100 * row["test_accuracy_b"], float("nan"), 2),
                "B − A, points": tables.plus_minus(100 * row["difference"], 100 * row["difference_sd"], 2),
                f"{a} kB": tables.plus_minus(row["bytes_file_a"] / 1000, float("nan"), 1),
                f"{b} kB ": tables.plus_minus(row["bytes_file_b"] / 1000, float("nan"), 1),
                "bytes B / A": tables.plus_minus(row["bytes_ratio"], float("nan"), 3),
            }
        )
    note = "test accuracy, means over seeds; ± is the deviation of the difference over the seeds that both have"
    return f"{pd.DataFrame(rows).to_string(index=False)}\n{note}"


def about(name: str) -> dict:
    """Settings and data of a run by its profile, where it is here, else as published; {} where neither says."""
    from studylib.disk import files  # two seconds of import, which study.py shall not wait for

    path = ROOT / "runs" / name / "study.json"
    return files.read_json(path) if path.exists() else published_about(name)


def published_about(name: str) -> dict:
    """What is published of where a study's numbers come from; {} where it is not."""
    from studylib.disk import files  # two seconds of import, which study.py shall not wait for

    path = ROOT / "figures" / "studies.json"
    return files.read_json(path).get(name, {}) if path.exists() else {}


def with_published(name: str) -> str:
    """Every node of the run ``name`` beside the published one of that profile; empty where none is published.

    A line a node: within the published interval, outside, or without one; above, what the two differ in.
    """
    from studylib.disk import files
    from studylib.results import (
        agreement,
        tables,  # two seconds of import, which study.py shall not wait for
    )

    results = ROOT / "figures" / name / "nodes.csv"
    if not results.exists():
        return ""
    try:
        with refusals(results, "nothing was compared"):
            every = table.read_table(results, *COMPARED)
            lines = [f"- {text}" for text in agreement.differences(about(name), published_about(name))]
    except files.CheckpointError as error:
        sys.exit(str(error))
    found = agreement.beside(table_of(name), every)
    shown = pd.DataFrame(
        {
            "node": found["node"],
            "this run %": [f"{100 * value:.2f}" for value in found["ours"]],
            "published %": [
                tables.plus_minus(100 * value, 100 * half, 2)
                for value, half in zip(found["published"], found["half"], strict=True)
            ],
            "agreement": found["verdict"],
            "bytes / published": [f"{ratio:.3f}" for ratio in found["bytes_ratio"]],
        }
    )
    counts = found["verdict"].value_counts()
    note = f"± is where the mean of {found['seeds'].max()} seeds is expected (95 %); of {len(found)} nodes "
    note += ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return "\n".join([*lines, shown.to_string(index=False), note])


def main(a: str, b: str) -> None:
    if not a or not b:
        sys.exit(USAGE)
    if b == PUBLISHED:
        if not (ROOT / "runs" / a / "sweep.csv").exists():
            sys.exit(f"runs/{a}/sweep.csv: not run here, so that nothing stands beside what is published. {USAGE}")
        print(with_published(a) or f"{a!r}: not published in figures/")
    else:
        print(side_by_side(a, b))


if __name__ == "__main__":
    main(*sys.argv[1:3])
