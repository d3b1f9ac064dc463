"""What chapters 10 and 11 find again of classifiers: each finding asked of both, by one rule."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import pandas as pd

from studylib.disk import files
from studylib.experiments import generative_objectives, sweep_narrower
from studylib.experiments.generative_told import (
    BOTH,
    INT8,
    PRUNED,
    SINGLE,
    SVD,
    against_narrower,
    over,
    said,
    summary,
)
from studylib.experiments.published import Figures
from studylib.results import statistics, tables
from studylib.tree import names

LITTLE = 1.0  # percent or points: what counts as nearly free, or as next to nothing
YES, NO = "yes", "no"
CARRIES, NOT, HERE, NEITHER = "carries over", "does not carry over", "holds here alone", "holds in neither"
SET = "set, not found"  # where a setting decides
VERDICTS = {(YES, YES): CARRIES, (YES, NO): NOT, (NO, YES): HERE, (NO, NO): NEITHER}  # there, here → word
TITLES = {word: word[0].upper() + word[1:] for word in (CARRIES, NOT, HERE, NEITHER, SET)}
TITLES |= {statistics.UNKNOWN: "Cannot be told"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is asked of classifiers and of a network that generates: where the whole interval lies.

    Args:
        says: in words.
        there, here: the units of what is measured of classifiers, and of the chapter's network.
        above: it holds above ``bound``; else at it and below.
        set: what is measured follows from settings, so that it is shown and nothing is said of it.
    """

    says: str
    there: str
    here: str
    bound: float
    above: bool
    set: bool = False

    @property
    def holds(self) -> str:
        """Where it holds, in words."""
        return f"{'above' if self.above else 'at most'} {self.bound:g}"

    def held(self, low: float, high: float) -> str:
        """:data:`YES`, :data:`NO`, or "cannot tell" where the interval holds both or is not there."""
        if math.isnan(low):
            return statistics.UNKNOWN
        above, below = low > self.bound, high <= self.bound
        return statistics.UNKNOWN if not above and not below else YES if above == self.above else NO


FREE, SAVES, LOW_RANK, CUT, NARROW, COMMON = FINDINGS = (
    Finding("int8 is nearly free", "points of accuracy lost", "% of bits added", LITTLE, False),
    Finding("pruning saves most of the file", *["points saved over the next technique"] * 2, 0, True, set=True),
    Finding("SVD saves next to nothing at Δ = 1", *["% of the file"] * 2, LITTLE, False, set=True),
    Finding("a narrower network beats SVD at Δ = 1", "points of accuracy", "% of bits saved", 0, True),
    Finding("pruning + int8 beats a narrower network", "points of accuracy", "% of bits saved", 0, True),
    Finding("PCD beats the better sum", "points of hypervolume", "% of bits saved", 0, True),
)


def margin(saved: pd.DataFrame) -> pd.Series:
    """Points that pruning saves over the next of :data:`SINGLE`; ``saved`` has a row a seed, a column a node."""
    return saved[PRUNED] - saved[[name for name in SINGLE if name != PRUNED]].max(axis=1)


def classifiers(*studies: str) -> dict[Finding, tuple[str, float, float, float]]:
    """Finding → study, value, low and high of the first published one of ``studies`` of classifiers.

    What it does not measure is of the next. Files, int8 and the comparison with narrower networks are chapter 7's. PCD
    is chapter 6's after fine-tuning, against the sum of the larger volume. Empty where the first is not here.
    """
    there = Figures(files.root() / "figures")
    nodes = there.nodes(studies[0]) if studies else pd.DataFrame()
    if not len(nodes) or not {names.TEACHER, *SINGLE} <= set(nodes["node"]):
        return {}
    percent, size = (nodes.pivot(index="seed", columns="node", values=c) for c in ("test_accuracy", "bytes_file"))
    saved = 100 * (1 - size.div(size[names.TEACHER], axis=0))
    lost = 100 * (percent[names.TEACHER] - percent[INT8])
    values = {FREE: lost, SAVES: margin(saved), LOW_RANK: saved[SVD]}
    found = {finding: (studies[0], *over(each)) for finding, each in values.items()}
    for study in studies:
        margins = there.rows(study, "sweep", "margins")
        known = sweep_narrower.grouped(there.rows(study, "sweep", "control"), margins)["rows"] if len(margins) else ()
        for row in known:
            if row["node"] == tables.label(BOTH):
                found.setdefault(NARROW, (study, row["margin"], row["low"], row["high"]))
            if row["node"] == tables.label(SVD):
                found.setdefault(CUT, (study, -row["margin"], -row["high"], -row["low"]))
        for least in sorted(there.measured(study, "moo").get("moo_tuned", []), key=lambda each: each.value)[:1]:
            found.setdefault(COMMON, (study, least.value, least.low, least.high))
    return found


def carried(
    rows: pd.DataFrame, nodes: pd.DataFrame, beside: pd.DataFrame, pcd: pd.DataFrame, studies: Sequence[str]
) -> pd.DataFrame:
    """Each of :data:`FINDINGS` of the published classifiers and of the chapter's network, and whether both agree.

    Args:
        rows: of the combinations; ``nodes`` is their :func:`summary`, ``beside`` of :func:`against_narrower`.
        pcd: what PCD saves over the better sum, a row of saved, low and high, or none.
        studies: of classifiers, in the order in which they are asked.

    Returns:
        finding, holds (where, in words), classifiers and here (in words), value, low, high (of this network), verdict.
    """
    by, size = nodes.set_index("node"), rows.pivot(index="seed", columns="node", values="bytes")
    saved, whole = 100 * (1 - size.div(size[names.TEACHER], axis=0)), by["test_bits"][names.TEACHER]
    less, both = (beside.set_index("node").loc[node, ["less", "low", "high"]].to_numpy(float) for node in (SVD, BOTH))
    here = {
        FREE: 100 * by.loc[INT8, ["costs", "costs_low", "costs_high"]].to_numpy(dtype=float) / whole,
        SAVES: over(margin(saved)),
        LOW_RANK: over(saved[SVD]),
        CUT: -100 * less[[0, 2, 1]] / whole,
        NARROW: 100 * both / whole,
        COMMON: 100 * pcd[["saved", "low", "high"]].to_numpy(float)[0] / whole if len(pcd) else [math.nan] * 3,
    }
    there, found = classifiers(*studies), []
    for finding, each in here.items():
        study, *known = there.get(finding, ("", *[math.nan] * 3))
        where = "" if study in ("", *studies[:1]) else f", {study}"
        held = finding.held(*known[1:]), finding.held(*map(float, each[1:]))
        words = ["", ""] if finding.set else [f"{word}: " for word in held]
        row = {"finding": finding.says, "holds": "–" if finding.set else finding.holds}
        row["classifiers"] = f"{words[0]}{said(known)} {finding.there}{where}" if study else "–"
        row["here"] = f"{words[1]}{said(each)} {finding.here}"
        row |= dict(zip(("value", "low", "high"), map(float, each), strict=True))
        found.append(row | {"verdict": SET if finding.set else VERDICTS.get(held, statistics.UNKNOWN)})
    return pd.DataFrame(found)


def carried_by(studies: Sequence[str]) -> Callable[..., pd.DataFrame]:
    """:func:`carried_listed` of a study's published rows: combinations, narrower, against and objectives."""

    def listed(made: pd.DataFrame, alone: pd.DataFrame, against: pd.DataFrame, tried: pd.DataFrame) -> pd.DataFrame:
        pcd = generative_objectives.fine_tuned_l1(tried, against)
        return carried_listed(carried(made, summary(made), against_narrower(made, alone), pcd, studies))

    return listed


def carried_listed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`carried` for people."""
    titles = {"holds": "holds if it is", "classifiers": "of classifiers"}
    return rows[["finding", "holds", "classifiers", "here", "verdict"]].rename(columns=titles)


def carried_told(rows: pd.DataFrame) -> str:
    """The findings by verdict, in words; those that settings decide with what was measured here."""
    seen = rows["finding"] + (": " + rows["here"]).where(rows["verdict"] == SET, "")
    by = {word: list(seen[rows["verdict"] == word]) for word in TITLES}
    return " ".join(f"{TITLES[word]}: {'; '.join(each)}." for word, each in by.items() if each)
