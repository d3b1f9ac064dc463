"""What chapter 10 says of its rows, in tables and in words."""

import html
import math

import pandas as pd

from studylib.data.text import BITS
from studylib.experiments import generative_told as told
from studylib.experiments.generative_told import BOTH, CARRIES, INT8, NOT, SVD
from studylib.experiments.gpt import FACTORIZED, ROUNDED, TUNED
from studylib.results import statistics
from studylib.tree import names

WITHIN = 0.1  # bits per character: what the smallest file may need more than the whole network
LITTLE, SLIGHT = 1.0, 3.0  # percent: less is next to nothing, of bits and of a file


def short(node: str) -> str:
    """The name of a node for people: ``teacher-imp-int8`` → ``imp-int8``, the teacher ``whole``."""
    return node.removeprefix(f"{names.TEACHER}-").replace(names.TEACHER, "whole")


def listed(nodes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds for people."""
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
    """Means over seeds beside the narrower dense network of as many bytes: node, bytes, test_bits, dense, less.

    Its bits are those of :func:`studylib.experiments.generative_told.of_as_many_bytes`. ``less`` is by how many bits
    the node is better. ``low`` and ``high`` are the interval of what the node costs, moved there.
    """
    found = nodes[["node", "bytes", "test_bits"]].assign(dense=told.of_as_many_bytes(nodes, dense))
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
    return told.smallest(nodes, WITHIN)


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
    narrow = [100 * each / whole for each in beside.set_index("node").loc[BOTH, ["less", "low", "high"]]]
    pcd = against[against["objective"] == "L1"].sort_values("saved").iloc[0]
    found = [
        ("int8 is nearly free", "% more bits", costs, lambda low, high: _side(high <= LITTLE, low > LITTLE)),
        ("pruning saves most of the file", "points over the next", told.over(told.margin(saved)), _above),
        (
            "SVD saves next to nothing at Δ = 1",
            "% of the file",
            told.over(saved[SVD]),
            lambda low, high: _side(high <= SLIGHT, low > SLIGHT),
        ),
        ("pruning + int8 beats a narrower network", "% fewer bits", narrow, _above),
        (
            "PCD is no better than the better sum",
            "% fewer bits",
            [100 * pcd[name] / whole for name in ("saved", "low", "high")],
            lambda low, high: _side(high <= 0, low > 0),
        ),
    ]
    known = told.classifiers(of_classifiers)
    return [
        {"finding": finding, "classifiers": known.get(number, "–"), "unit": unit}
        | dict(zip(("value", "low", "high"), map(float, each), strict=True))
        | {"verdict": judge(*(float(end) if not math.isnan(end) else float(each[0]) for end in each[1:]))}
        for number, (finding, unit, each, judge) in enumerate(found)
    ]


def _side(yes: bool, no: bool) -> str:
    return CARRIES if yes else NOT if no else statistics.UNKNOWN


def _above(low: float, high: float) -> str:
    return _side(low > 0, high <= 0)


def marks_told(marks: pd.DataFrame, nodes: pd.DataFrame) -> str:
    """Which marks the whole network beats, in words."""
    whole = nodes.set_index("node")["test_bits"][names.TEACHER]
    beaten, rest = told.beaten(marks, whole, BITS, 2)
    return f"The whole network needs {whole:.2f} bits a character. It beats {beaten}. It does not beat {rest}."


def nodes_told(nodes: pd.DataFrame, small: str) -> str:
    """The smallest file within :data:`WITHIN`, and how many combinations cost no more than that, in words."""
    by = nodes.set_index("node")
    whole, least = by.loc[names.TEACHER], by.loc[small]
    held = ((by["costs_high"] <= WITHIN) & (by.index != names.TEACHER)).sum()
    return (
        f"Within {WITHIN:g} bits of the whole network, by the whole interval: {held} of {len(by) - 1} combinations. "
        f"The smallest within it on validation text is {short(small)}: {least['bytes']:,.0f} bytes, "
        f"{1 - least['bytes'] / whole['bytes']:.0%} saved, "
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


def _bits(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return "–"
    ends = "" if math.isnan(low) or low == high == 0 else f" ({low:+.3f} to {high:+.3f})"
    return f"{value:+.3f}{ends}"
