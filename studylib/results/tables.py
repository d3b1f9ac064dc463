"""Tables for people: in Markdown, in a terminal, and where their rows come from."""

import json
import math
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from studylib.disk import files
from studylib.tree import names

TECHNIQUE_NAMES = {"kd": "distillation", "imp": "pruning", "svd": "SVD", "int8": "int8"}


def show_published(name: str, caption: str) -> None:
    """Shows ``figures/cited/<name>.png``, caption and origin in a notebook, or a sentence where it is not there."""
    from IPython.display import Image, Markdown, display

    path = files.root() / "figures" / "cited" / f"{name}.png"
    if not path.is_file():
        display(Markdown(f"*{caption}: `figures/cited/{name}.png` is not in this copy of the study.*"))
        return
    display(Image(filename=path, width=900))
    display(Markdown(f"*{caption}. `figures/cited/index.json` says of which rows.*"))


def show_study(about: dict, published: str = "") -> None:
    """Says in a notebook whether it shows the study in the folder ``published`` or rows made here, and their origin."""
    from IPython.display import Markdown, display

    shown = f"the study published in `{published}`" if published else "rows that were made here"
    display(Markdown(f"*This page shows {shown}. {where_from(about)}".strip() + "*"))


def where_from(about: dict) -> str:
    """Data set, profile, seeds, commit, date and hardware of rows in a sentence; empty where they do not say."""
    data, made = about.get("data", {}), about.get("provenance", about)
    seeds = about.get("seeds", [data["seed"]] if "seed" in data else [])
    said = {
        "data set": data.get("name"),
        "profile": about.get("profile"),
        "seeds" if len(seeds) > 1 else "seed": seeds,
        "commit": made.get("git_commit"),
        "of": (made.get("date") or "")[:10],
        "on": made.get("hardware"),
    }
    listed = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in said.items()}
    found = "; ".join(f"{key} {value}" for key, value in listed.items() if value).replace("; of ", " of ")
    return f"{found[0].upper()}{found[1:]}." if found else ""


def save_table(path: Path, rows: pd.DataFrame, about: dict | None = None) -> None:
    """Writes ``path``.json with ``rows`` and where they come from: a table that is cited like a figure."""
    plain = json.loads(rows.to_json(orient="records", double_precision=10))
    files.write_json(files.resolve(path).with_suffix(".json"), {"about": about or {}, "rows": plain})


def label(node: str) -> str:
    """A node's name for people: ``teacher-kd-int8`` → ``distillation + int8``."""
    techniques = [TECHNIQUE_NAMES.get(t, t) for t in node.split("-") if t != names.TEACHER]
    return " + ".join(techniques) or "teacher"


def plus_minus(mean: float, deviation: float, digits: int) -> str:
    """``mean ± deviation``; the mean alone where there is no deviation (one seed), a dash where there is neither."""
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}")


def display_table(summary: pd.DataFrame) -> pd.DataFrame:
    """The table for people, mean ± standard deviation over seeds, as text; kB are 1,000 bytes."""
    columns = {  # title → column, factor, decimals
        "test accuracy %": ("test_accuracy", 100, 2),
        "file kB": ("bytes_file", 1e-3, 1),
        "saved %": ("saved", 100, 2),
        "entropy kB": ("bytes_entropy", 1e-3, 1),
        "zstd kB": ("bytes_zstd", 1e-3, 1),
        "sparse kB": ("bytes_sparse", 1e-3, 1),
        "nonzeros × width kB": ("bytes_nonzero", 1e-3, 1),
        "NLL": ("test_nll", 1, 3),
        "calibration error %": ("test_ece", 100, 1),
        "agreement %": ("agreement", 100, 1),
        "latency ms": ("latency_ms", 1, 2),
    }
    found = {"node": summary["node"]}
    for title, (column, factor, digits) in columns.items():
        unknown = pd.Series(math.nan, summary.index)
        deviation = summary.get(f"{column}_sd", unknown).replace(0, math.nan)  # sizes often do not vary
        of_one_seed = column == "latency_ms"
        both = zip(factor * summary[column], unknown if of_one_seed else factor * deviation, strict=True)
        found[title] = [plus_minus(*each, digits) for each in both]
    return pd.DataFrame(found)


def markdown_rows(rows: pd.DataFrame, digits: int = 2, right: Collection[str] = ()) -> str:
    """Any table in Markdown, its index left out: floats with ``digits`` decimals, a dash where there is none.

    Numbers are aligned to the right, and so are the columns ``right`` of texts.
    """

    def text(value) -> str:
        if isinstance(value, float):
            return "–" if math.isnan(value) else f"{value:,.{digits}f}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    numeric = rows.select_dtypes(["number", "bool"])
    align = ["---:" if name in numeric or name in right else "---" for name in rows]
    lines = ["| " + " | ".join(map(str, rows.columns)) + " |", "|" + "|".join(align) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(text, row)) + " |" for row in rows.itertuples(index=False))])


def effect_name(effect: str) -> str:
    """``imp × int8`` → ``pruning × int8``."""
    return " × ".join(TECHNIQUE_NAMES.get(part, part) for part in effect.split(" × "))


def markdown_table(summary: pd.DataFrame, columns: list[str] | None = None) -> str:
    """:func:`display_table` (or some of its columns) in Markdown."""
    table = display_table(summary)
    table = table[columns] if columns else table
    return markdown_rows(table, right=table.columns[1:])
