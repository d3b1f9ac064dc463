"""What chapter 10 says of its rows, in tables and in words."""

import html
import math
from collections.abc import Callable

import pandas as pd

from studylib.data.text import BITS
from studylib.experiments import generative_told as told
from studylib.experiments.generative_told import joined, short
from studylib.experiments.gpt import FACTORIZED, ROUNDED, TUNED, WHOLE
from studylib.results import statistics
from studylib.results.chapter import Beside
from studylib.tree import names

WITHIN = 0.1  # bits per character: what the smallest file may need more than the whole network
UNITS = {ROUNDED: "{} bits a weight", FACTORIZED: "Δ = {}"}
BETTER = {  # way → the plain way that it is held against; both for people
    "groups, GPTQ": ("groups, to the nearest", "GPTQ", "rounding to the nearest"),
    "Fisher-weighted SVD": ("SVD", "Fisher-weighted SVD", "plain SVD"),
    "Fisher-weighted SVD" + TUNED: ("SVD" + TUNED, "Fisher-weighted SVD" + TUNED, "plain SVD" + TUNED),
}


def listed(nodes: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds for people."""
    zeros = {"zeros": [f"{share:.0%}" for share in nodes["zeros"]]}
    return pd.DataFrame({"combination": [short(node) for node in nodes["node"]], **_measured(nodes, zeros)})


def listed_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The same of rows as they are published, of every combination and seed."""
    return listed(told.summary(rows))


def ways_of(kind: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """:func:`ways_listed` of rows as they are published, of every way and seed."""
    return lambda ways: ways_listed(told.summary(ways, ["kind", "way", "setting"]), kind)


def ways_listed(ways: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The ways of ``kind``, :data:`ROUNDED` or :data:`FACTORIZED`, for people."""
    rows = ways[ways["kind"] == kind]
    none = rows["way"] == WHOLE + TUNED
    setting = {
        {ROUNDED: "bits", FACTORIZED: "Δ"}[kind]: [
            "–" if no else at for no, at in zip(none, rows["setting"], strict=True)
        ]
    }
    return pd.DataFrame({"way": list(rows["way"]), **setting, **_measured(rows)})


def _measured(rows: pd.DataFrame, more: dict | None = None) -> dict[str, list]:
    costs = [told.said([row.costs, row.costs_low, row.costs_high], 3) for row in rows.itertuples()]
    whole = (rows["costs_low"] == 0) & (rows["costs_high"] == 0)
    return {
        "bytes": [round(size) for size in rows["bytes"]],
        **(more or {}),
        "test bits": [f"{bits:.3f}" for bits in rows["test_bits"]],
        "more than the whole": ["–" if same else cost for same, cost in zip(whole, costs, strict=True)],
    }


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


def written_by(study: Beside) -> Callable[[pd.DataFrame], str]:
    """:func:`written_page` for another published study's rows, after its own prompt."""
    return lambda rows: written_page(rows, study.published.content["settings"]["network"]["prompt"])


def speed_listed(written: pd.DataFrame, nodes: pd.DataFrame) -> pd.DataFrame:
    """How fast networks write and read, and what they hold, for people."""
    size = nodes.set_index("node")["bytes"]
    rows = written.to_dict("records")
    return pd.DataFrame(
        {
            "network": [short(row["node"]) for row in rows],
            "written a second": [round(row["per_second"]) for row in rows],
            "read a second": [round(row["read_per_second"]) for row in rows],
            "bytes of its numbers": [row["memory"] for row in rows],
            "bytes of the file": [round(size[row["node"]]) for row in rows],
        }
    )


def speed_of(written: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The same of rows as they are published, of what is written and of every combination."""
    return speed_listed(written, told.summary(rows))


def marks_listed(marks: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """What has to be beaten, beside the whole network and the smallest that is nearly as good."""
    return told.marks_listed(marks, rows, smallest(told.summary(rows)), BITS, 3)


def marks_told(marks: pd.DataFrame, nodes: pd.DataFrame) -> str:
    """Which marks the whole network beats, in words."""
    whole = nodes.set_index("node")["test_bits"][names.TEACHER]
    beaten, rest = told.beaten(marks, whole, BITS, 2)
    return f"The whole network needs {whole:.2f} bits per character. More need: {beaten}. Fewer need: {rest}."


def nodes_told(nodes: pd.DataFrame, small: str) -> str:
    """The smallest file within :data:`WITHIN`, and which combinations surely cost no more than that, in words."""
    by = nodes.set_index("node")
    whole, least = by.loc[names.TEACHER], by.loc[small]
    costs = told.said([least["costs"], least["costs_low"], least["costs_high"]], 3)
    return (
        f"Of the sixteen, the smallest file within {WITHIN:g} bits of the whole network, "
        f"by validation text, is {short(small)}. "
        f"It has {least['bytes']:,.0f} bytes, {1 - least['bytes'] / whole['bytes']:.0%} less. "
        f"On test text it costs {costs} bits. {told.surely_within(nodes, WITHIN, f'{WITHIN:g} bits')}"
    )


def ways_against(ways: pd.DataFrame) -> pd.DataFrame:
    """What GPTQ and Fisher weights save of the plain way's bits, each at its setting, seed by seed.

    Args:
        ways: rows of :func:`studylib.experiments.gpt.ways`.

    Returns:
        way, plain and setting (in words), costs and plain_costs (means), saved, low, high (95 %, Student's), verdict.
    """
    cost, found = ways.pivot(index="seed", columns=["way", "setting"], values="costs"), []
    for way, (plain, *said) in BETTER.items():
        for (kind, at), _ in ways[ways["way"] == way].groupby(["kind", "setting"], sort=False):
            saved, low, high = told.over(cost[plain, at] - cost[way, at])
            row = {"way": said[0], "plain": said[1], "setting": UNITS[kind].format(at), "costs": cost[way, at].mean()}
            row |= {"plain_costs": cost[plain, at].mean(), "saved": saved, "low": low, "high": high}
            found.append(row | {"verdict": statistics.judge((low, high))})
    return pd.DataFrame(found)


def ways_told(ways: pd.DataFrame) -> str:
    """The rows of :func:`ways_against` in words: an item each, of a list in a list."""
    return "\n".join(
        f"   - {row.way} at {row.setting} costs {row.costs:.3f} bits, {row.plain} {row.plain_costs:.3f}. "
        f"Saved: {told.said([row.saved, row.low, row.high], 3)}{_doubt(row)}."
        for row in ways_against(ways).itertuples()
    )


def _doubt(row) -> str:
    if row.verdict != statistics.UNKNOWN:
        return ""
    return ", of one seed" if math.isnan(row.low) else "; these seeds cannot tell"


def written_told(written: pd.DataFrame) -> str:
    """How long the first characters agree with those of the whole network, and which is the fastest, in words."""
    first, *rest = written.to_dict("records")
    fast = max([first, *rest], key=lambda row: row["per_second"])
    agree = [f"{short(row['node'])} {_alike(first['text'], row['text'])}" for row in rest]
    parts = f"First characters shared with the whole network's text: {joined(agree)}. " if agree else ""
    who = "the whole network" if fast is first else short(fast["node"])
    return f"{parts}The fastest writer is {who}: {fast['per_second']:,.0f} characters a second."


def _alike(one: str, other: str) -> int:
    """How many first characters of two texts are the same."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def drawn_by(draw: Callable) -> Callable:
    """``draw`` (nodes, dense, ways) for rows as they are published, of combinations, narrower networks and ways."""

    def drawn(made: pd.DataFrame, alone: pd.DataFrame, ways: pd.DataFrame):
        by_way = told.summary(ways, ["kind", "way", "setting"])
        return draw(told.summary(made), told.summary(alone, ["width", "form"]), by_way)

    return drawn
