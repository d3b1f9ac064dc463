"""What chapters 10 and 11 say alike of their rows: means over seeds, the smallest file, findings of classifiers."""

import math

import numpy as np
import pandas as pd

from studylib.disk import files
from studylib.experiments import sweep_narrower
from studylib.experiments.published import Figures
from studylib.results import statistics, verdicts
from studylib.tree import names

MEANS = ("bytes", "zeros", "test_bits", "val_bits", "low", "high", "costs")
CARRIES, NOT = "carries over", "does not"
PRUNED, SVD, INT8, BOTH = (f"{names.TEACHER}-{part}" for part in ("imp", "svd", "int8", "imp-int8"))
SINGLE = (f"{names.TEACHER}-kd", PRUNED, SVD, INT8)
FREE, SAVES, LOW_RANK, NARROW, COMMON = range(5)  # the findings of classifiers


def summary(rows: pd.DataFrame, by: str | list[str] = "node") -> pd.DataFrame:
    """A row a node: means over seeds of what is measured, and of what it costs an interval.

    That is Student's over seeds where there are two or more, else over images or blocks. ``verdict`` says what it
    shows.
    """
    found, keys = [], [by] if isinstance(by, str) else by
    for key, group in rows.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True)) | {name: float(group[name].mean()) for name in MEANS if name in rows}
        low, high = group[["costs_low", "costs_high"]].iloc[0]
        if len(group) > 1:
            low, high = statistics.t_interval(group["costs"].to_numpy())
        found.append(row | {"costs_low": low, "costs_high": high, "verdict": statistics.judge((low, high))})
    return pd.DataFrame(found)


def smallest(nodes: pd.DataFrame, within: float) -> str:
    """The node of the smallest file whose validation bits are at most ``within`` above the teacher's."""
    whole = nodes.set_index("node")["val_bits"][names.TEACHER]
    held = nodes[nodes["val_bits"] <= whole + within]
    return held.loc[held["bytes"].idxmin(), "node"]


def of_as_many_bytes(nodes: pd.DataFrame, dense: pd.DataFrame) -> np.ndarray:
    """Test bits of the narrower dense network of as many bytes as each of ``nodes``, (n,); NaN below all.

    Those of each form, float32 or int8, are a line along the logarithm of bytes. The better one counts, as in
    :func:`studylib.experiments.sweep_narrower.at_equal_cost`.

    Args:
        nodes, dense: rows with bytes; ``dense`` with form and test_bits, too.
    """
    rivals = dense.assign(kind=dense["form"], gain=-dense["test_bits"])
    return np.array([-sweep_narrower.at_equal_cost(rivals, "bytes", "gain", size) for size in nodes["bytes"]])


def margin(saved: pd.DataFrame) -> pd.Series:
    """Points that pruning saves over the next of :data:`SINGLE`; ``saved`` has a row a seed, a column a node."""
    return saved[PRUNED] - saved[[name for name in SINGLE if name != PRUNED]].max(axis=1)


def over(values: pd.Series) -> tuple[float, float, float]:
    """Mean and Student's interval (95 %) over the seeds."""
    return values.mean(), *statistics.t_interval(values.to_numpy())


def said(three, digits: int = 2) -> str:
    """A value with its interval, in words; without one, alone."""
    value, low, high = map(float, three)
    ends = "" if math.isnan(low) else f" ({low:+.{digits}f} to {high:+.{digits}f})"
    return "–" if math.isnan(value) else f"{value:+.{digits}f}{ends}"


def classifiers(*studies: str) -> dict[int, str]:
    """Finding → what the first published one of ``studies`` of classifiers shows, in words.

    What it does not say is of the next, which is then named. Empty where the first is not here.
    """
    there = Figures(files.root() / "figures")
    nodes = there.nodes(studies[0]) if studies else pd.DataFrame()
    if not len(nodes) or not {names.TEACHER, *SINGLE} <= set(nodes["node"]):
        return {}
    percent, size = (nodes.pivot(index="seed", columns="node", values=c) for c in ("test_accuracy", "bytes_file"))
    saved = 100 * (1 - size.div(size[names.TEACHER], axis=0))
    found = {
        FREE: f"{said(over(100 * (percent[INT8] - percent[names.TEACHER])))} points of accuracy",
        SAVES: f"{said(over(margin(saved)))} points over the next",
        LOW_RANK: f"{said(over(saved[SVD]))} % of the file",
    }
    for study in dict.fromkeys(studies):
        where = "" if study == studies[0] else f", {study}"
        margins = there.rows(study, "sweep", "margins")
        for row in margins[margins["node"] == BOTH].to_dict("records") if len(margins) else ():
            told = said([row["margin"], row.get("low", math.nan), row.get("high", math.nan)])
            found.setdefault(NARROW, f"{told} points of accuracy{where}")
        for least in sorted(there.measured(study, "moo").get("moo_tuned", []), key=lambda each: each.value)[:1]:
            found.setdefault(COMMON, verdicts.text(least, "points of the plane") + where)
    return found


def carried_listed(rows: pd.DataFrame) -> pd.DataFrame:
    """What carries over, for people; ``rows`` have finding, classifiers, unit, value, low, high and verdict."""
    here = [f"{said((row.value, row.low, row.high))} {row.unit}" for row in rows.itertuples()]
    columns = {"of classifiers": rows["finding"], "there": rows["classifiers"], "here": here}
    return pd.DataFrame(columns | {"verdict": rows["verdict"]})


def carried_told(rows: pd.DataFrame) -> str:
    """The findings by verdict, in words."""
    by = {word: list(rows["finding"][rows["verdict"] == word]) for word in (CARRIES, NOT, statistics.UNKNOWN)}
    titles = {CARRIES: "Carries over", NOT: "Does not", statistics.UNKNOWN: "Cannot be told"}
    return " ".join(f"{titles[word]}: {'; '.join(each)}." for word, each in by.items() if each)


def beaten(marks: pd.DataFrame, whole: float, bits: str, digits: int) -> list[str]:
    """Which marks need more than ``whole`` bits, and which do not, in words; ``bits`` is their column."""
    parts = [(whole < row[bits], f"{row['name']} ({row[bits]:.{digits}f})") for row in marks.to_dict("records")]
    return [", ".join(name for better, name in parts if better == want) or "none" for want in (True, False)]


def at_an_end(rows: pd.DataFrame, best: pd.DataFrame, names: dict[str, str] | None = None) -> str:
    """Of how many ways the best value is the first or last of at least three, by objective, in words.

    Args:
        rows: all that was tried: objective, way, value.
        best: those of the best values.
        names: objective → its name for people, if it is another.
    """
    values = rows.groupby(["objective", "way"], sort=False)["value"].agg(["min", "max", "nunique"])
    found = best.groupby(["objective", "way"], sort=False)["value"].first()
    ends = ((found == values["min"]) | (found == values["max"])) & (values["nunique"] > 2)
    counts = ends.groupby(level=0, sort=False).agg(["sum", "size"])
    words = [
        f"{(names or {}).get(each, each)} {n['sum']} of {n['size']} ways" for each, n in counts.iterrows() if n["sum"]
    ]
    return ", ".join(words) or "none"
