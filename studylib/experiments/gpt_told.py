"""What chapter 10 says of its rows, in tables and in words."""

import html
import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from studylib.data.text import BITS
from studylib.disk import files
from studylib.experiments.gpt import FACTORIZED, ROUNDED, TUNED
from studylib.experiments.published import Figures
from studylib.results import statistics, verdicts
from studylib.tree import names

WITHIN = 0.1  # bits per character: what the smallest file may need more than the whole network
LITTLE, SLIGHT = 1.0, 3.0  # percent: less is next to nothing, of bits and of a file
CARRIES, NOT = "carries over", "does not"
MEANS = ["bytes", "test_bits", "val_bits", "low", "high", "costs"]
INT8, PRUNED, SVD, BOTH = (f"{names.TEACHER}-{which}" for which in ("int8", "imp", "svd", "imp-int8"))


def summary(rows: pd.DataFrame, by: str | list[str] = "node") -> pd.DataFrame:
    """A row a node: means over seeds of what is measured, and of what it costs an interval.

    That is Student's over seeds where there are two or more, else over blocks. ``verdict`` says what it shows.
    """
    found, keys = [], [by] if isinstance(by, str) else by
    columns = [*MEANS, *(name for name in ("zeros",) if name in rows)]
    for key, group in rows.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True)) | {name: float(group[name].mean()) for name in columns}
        low, high = group[["costs_low", "costs_high"]].iloc[0]
        if len(group) > 1:
            low, high = statistics.t_interval(group["costs"].to_numpy())
        found.append(row | {"costs_low": low, "costs_high": high, "verdict": statistics.judge((low, high))})
    return pd.DataFrame(found)


def short(node: str) -> str:
    """The name of a node for people: ``teacher-imp-int8`` → ``imp-int8``, the teacher ``whole``."""
    return node.removeprefix(f"{names.TEACHER}-").replace(names.TEACHER, "whole")


def listed(nodes: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`summary` for people."""
    rows = nodes.to_dict("records")
    return pd.DataFrame(
        {
            "combination": [short(row["node"]) for row in rows],
            "bytes": [round(row["bytes"]) for row in rows],
            "zeros": [f"{row['zeros']:.0%}" for row in rows],
            "test bits": [f"{row['test_bits']:.3f}" for row in rows],
            "more than the whole": [_bits(row["costs"], row["costs_low"], row["costs_high"]) for row in rows],
        }
    )


def ways_listed(ways: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The ways of ``kind``, :data:`ROUNDED` or :data:`FACTORIZED`, for people."""
    rows = ways[ways["kind"] == kind].to_dict("records")
    return pd.DataFrame(
        {
            "way": [row["way"] for row in rows],
            {ROUNDED: "bits", FACTORIZED: "Δ"}[kind]: [row["setting"] for row in rows],
            "bytes": [round(row["bytes"]) for row in rows],
            "test bits": [f"{row['test_bits']:.3f}" for row in rows],
            "more than the whole": [_bits(row["costs"], row["costs_low"], row["costs_high"]) for row in rows],
        }
    )


def beside_narrower(nodes: pd.DataFrame, dense: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`summary` beside the narrower dense network of as many bytes: node, bytes, test_bits, dense, less.

    Its bits are taken between those of the two nearest files, along the logarithm of bytes; NaN beyond all. ``less``
    is by how many bits the node is better. ``low`` and ``high`` are the interval of what the node costs, moved there.
    """
    known = dense.sort_values("bytes")
    known = known[known["test_bits"] < known["test_bits"].cummin().shift(fill_value=math.inf)]  # those of use
    at = np.interp(np.log(nodes["bytes"]), np.log(known["bytes"]), known["test_bits"], left=np.nan, right=np.nan)
    found = nodes[["node", "bytes", "test_bits"]].assign(dense=at)
    found["less"] = found["dense"] - found["test_bits"]
    half = (nodes["costs_high"] - nodes["costs_low"]) / 2
    return found.assign(low=found["less"] - half, high=found["less"] + half)


def beside_listed(beside: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`beside_narrower` for people."""
    rows = beside.to_dict("records")
    return pd.DataFrame(
        {
            "combination": [short(row["node"]) for row in rows],
            "bytes": [round(row["bytes"]) for row in rows],
            "fewer bits than a narrower network": [_bits(row["less"], row["low"], row["high"]) for row in rows],
            "verdict": [_better(row) for row in rows],
        }
    )


def _better(row: dict) -> str:
    if row["node"] in (names.TEACHER, INT8):
        return "is one of them"
    if math.isnan(row["less"]):
        return "none of that size"
    words = {statistics.HELP: "beats it", statistics.HURT: "does not", statistics.UNKNOWN: "cannot tell"}
    return words[statistics.judge((row["low"], row["high"]))]


def smallest(nodes: pd.DataFrame) -> str:
    """The smallest file whose validation bits are at most :data:`WITHIN` above the teacher's: its node."""
    whole = nodes.set_index("node")["val_bits"][names.TEACHER]
    held = nodes[nodes["val_bits"] <= whole + WITHIN]
    return held.loc[held["bytes"].idxmin(), "node"]


def front(nodes: pd.DataFrame) -> list[str]:
    """The nodes that none beats in both bytes and test bits, the largest first."""
    best = nodes[statistics.pareto(nodes.assign(gain=-nodes["test_bits"]), "bytes", "gain")]
    return list(best.sort_values("bytes", ascending=False)["node"])


def written_page(written: pd.DataFrame, prompt: str) -> str:
    """What each network writes, as a table of HTML; the prompt is in bold."""
    cells = [
        f"<tr><th>{short(row.node)}</th><td style='text-align:left;white-space:pre-wrap;font-family:monospace'>"
        f"<b>{html.escape(prompt)}</b>{html.escape(row.text)}</td></tr>"
        for row in written.itertuples()
    ]
    return f"<table>{''.join(cells)}</table>"


def speed_listed(written: pd.DataFrame, nodes: pd.DataFrame) -> pd.DataFrame:
    """How fast networks write and read, and what they hold, for people."""
    size = nodes.set_index("node")["bytes"]
    rows = written.to_dict("records")
    return pd.DataFrame(
        {
            "network": [short(row["node"]) for row in rows],
            "written a second": [round(row["per_second"]) for row in rows],
            "read a second": [round(row["read_per_second"]) for row in rows],
            "bytes in memory": [row["memory"] for row in rows],
            "bytes of the file": [round(size[row["node"]]) for row in rows],
        }
    )


def carried(
    nodes: pd.DataFrame, rows: pd.DataFrame, beside: pd.DataFrame, against: pd.DataFrame, of_classifiers: str
) -> list[dict]:
    """Five findings of classifiers, a row each: what the published study ``of_classifiers`` says, and what is here.

    Columns: finding, classifiers (in words), unit, value, low, high, verdict. Of one seed, bytes have no interval:
    their verdict is of the value alone.
    """
    by, size = nodes.set_index("node"), rows.pivot(index="seed", columns="node", values="bytes")
    whole, saved = by.loc[names.TEACHER, "test_bits"], 100 * (1 - size.div(size[names.TEACHER], axis=0))
    costs = [100 * by.loc[INT8, name] / whole for name in ("costs", "costs_low", "costs_high")]
    margin = saved[PRUNED] - saved[[INT8, SVD, f"{names.TEACHER}-kd"]].max(axis=1)
    narrow = [100 * each / whole for each in beside.set_index("node").loc[BOTH, ["less", "low", "high"]]]
    pcd = against[against["objective"] == "L1"].sort_values("saved").iloc[0]
    found = [
        ("int8 is nearly free", "% more bits", costs, lambda low, high: _side(high <= LITTLE, low > LITTLE)),
        ("pruning saves most of the file", "points over the next", _over(margin), _above),
        (
            "SVD saves next to nothing at Δ = 1",
            "% of the file",
            _over(saved[SVD]),
            lambda low, high: _side(high <= SLIGHT, low > SLIGHT),
        ),
        ("pruning + int8 beats a narrower network", "% fewer bits", narrow, _above),
        (
            "PCD is no better than the better sum",
            "% fewer bits",
            [100 * pcd[name] / whole for name in ("saved", "low", "high")],
            lambda low, high: _side(high <= 0 or low <= 0 <= high, low > 0),
        ),
    ]
    told = classifiers(of_classifiers)
    return [
        {"finding": finding, "classifiers": told.get(finding, "–"), "unit": unit}
        | dict(zip(("value", "low", "high"), map(float, each), strict=True))
        | {"verdict": judge(*(float(end) if not math.isnan(end) else float(each[0]) for end in each[1:]))}
        for finding, unit, each, judge in found
    ]


def _side(yes: bool, no: bool) -> str:
    return CARRIES if yes else NOT if no else statistics.UNKNOWN


def _above(low: float, high: float) -> str:
    return _side(low > 0, high <= 0)


def _over(values: pd.Series) -> tuple[float, float, float]:
    return values.mean(), *statistics.t_interval(values.to_numpy())


def classifiers(study: str) -> dict[str, str]:
    """Finding → what the published ``study`` of classifiers shows, in words; empty where it is not here."""
    there = Figures(files.root() / "figures")
    nodes = there.nodes(study)
    if not len(nodes):
        return {}
    percent, size = (nodes.pivot(index="seed", columns="node", values=c) for c in ("test_accuracy", "bytes_file"))
    saved = 100 * (1 - size.div(size[names.TEACHER], axis=0))
    margin = saved[PRUNED] - saved[[INT8, SVD, f"{names.TEACHER}-kd"]].max(axis=1)
    found = {
        "int8 is nearly free": f"{_said(_over(100 * (percent[INT8] - percent[names.TEACHER])))} points of accuracy",
        "pruning saves most of the file": f"{_said(_over(margin))} points over the next",
        "SVD saves next to nothing at Δ = 1": f"{_said(_over(saved[SVD]))} % of the file",
    }
    margins = there.rows(study, "sweep", "margins")
    for row in margins[margins["node"] == BOTH].to_dict("records") if len(margins) else ():
        told = _said([row["margin"], row.get("low", math.nan), row.get("high", math.nan)])
        found["pruning + int8 beats a narrower network"] = f"{told} points of accuracy"
    for least in sorted(there.measured(study, "moo").get("moo_tuned", []), key=lambda each: each.value)[:1]:
        found["PCD is no better than the better sum"] = verdicts.text(least, "points of the plane")
    return found


def carried_listed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`carried` for people."""
    here = [f"{_said((row.value, row.low, row.high))} {row.unit}" for row in rows.itertuples()]
    columns = {"of classifiers": rows["finding"], "there": rows["classifiers"], "here": here}
    return pd.DataFrame(columns | {"verdict": rows["verdict"]})


def carried_told(rows: pd.DataFrame) -> str:
    """The findings by verdict, in words."""
    by = {word: list(rows["finding"][rows["verdict"] == word]) for word in (CARRIES, NOT, statistics.UNKNOWN)}
    titles = {CARRIES: "Carries over", NOT: "Does not", statistics.UNKNOWN: "Cannot be told"}
    return " ".join(f"{titles[word]}: {'; '.join(each)}." for word, each in by.items() if each)


def marks_told(marks: pd.DataFrame, nodes: pd.DataFrame) -> str:
    """Which marks the whole network beats, in words."""
    whole = nodes.set_index("node")["test_bits"][names.TEACHER]
    parts = [(whole < row[BITS], f"{row['name']} ({row[BITS]:.2f})") for row in marks.to_dict("records")]
    beaten, rest = (", ".join(name for better, name in parts if better == want) or "none" for want in (True, False))
    return f"The whole network needs {whole:.2f} bits a character. It beats {beaten}. It does not beat {rest}."


def nodes_told(nodes: pd.DataFrame, small: str) -> str:
    """The smallest file within :data:`WITHIN`, and how many combinations cost no more than that, in words."""
    by = nodes.set_index("node")
    whole, least = by.loc[names.TEACHER], by.loc[small]
    held = ((by["costs_high"] <= WITHIN) & (by.index != names.TEACHER)).sum()
    return (
        f"Of {len(by) - 1} combinations {held} cost at most {WITHIN:g} bits, their whole interval. The smallest within "
        f"it is {short(small)}: {least['bytes']:,.0f} bytes, {1 - least['bytes'] / whole['bytes']:.0%} saved, "
        f"{least['costs']:+.3f} bits."
    )


def narrower_told(beside: pd.DataFrame) -> str:
    """Which combinations beat narrower networks at equal bytes, in words."""
    shown = beside_listed(beside)
    by = {word: list(group["combination"]) for word, group in shown.groupby("verdict", sort=False)}
    return "; ".join(f"{word}: {', '.join(each)}" for word, each in sorted(by.items()))


def ways_told(ways: pd.DataFrame) -> str:
    """What GPTQ and Fisher weights save over the plain way, of the costs, in words; the largest and least step."""
    cost = ways.set_index(["way", "setting"])["costs"]
    parts = []
    for better, plain in (
        ("groups, GPTQ", "groups, to the nearest"),
        ("Fisher-weighted SVD", "SVD"),
        ("Fisher-weighted SVD" + TUNED, "SVD" + TUNED),
    ):
        each = [f"{cost[plain, at]:.3f} → {cost[better, at]:.3f} at {at}" for at in cost[better].index]
        parts.append(f"{plain} → {better}: {', '.join(each)}")
    return "; ".join(parts)


def written_told(written: pd.DataFrame) -> str:
    """How long the first characters agree with those of the whole network, and which is the fastest, in words."""
    first, *rest = written.to_dict("records")
    same = [
        (next((i for i, (a, b) in enumerate(zip(first["text"], r["text"], strict=True)) if a != b), len(r["text"])), r)
        for r in rest
    ]
    parts = [f"{short(row['node'])} for {count} characters" for count, row in same]
    fast = max([first, *rest], key=lambda row: row["per_second"])
    agree = f"They write what the whole network writes: {', '.join(parts)}. " if parts else ""
    return f"{agree}The fastest writer here is {short(fast['node'])}, {fast['per_second']:.0f} characters a second."


def drawn_by(draw: Callable) -> Callable:
    """``draw`` (nodes, dense, ways) for rows as they are published."""
    return lambda made, alone, ways: draw(summary(made), summary(alone, ["width", "form"]), ways)


def _bits(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "–"
    ends = "" if math.isnan(low) or low == high == 0 else f" ({low:+.3f} to {high:+.3f})"
    return f"{value:+.3f}{ends}"


def _said(three, digits: int = 2) -> str:
    value, low, high = map(float, three)
    ends = "" if math.isnan(low) else f" ({low:+.{digits}f} to {high:+.{digits}f})"
    return "–" if math.isnan(value) else f"{value:+.{digits}f}{ends}"
