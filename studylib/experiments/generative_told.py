"""What chapters 10 and 11 say alike of their rows: means over seeds, the smallest file, findings of classifiers."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from studylib.disk import files
from studylib.experiments import sweep_narrower
from studylib.experiments.published import Figures
from studylib.results import statistics, tables
from studylib.tree import names

MEANS = ("bytes", "zeros", "test_bits", "val_bits", "low", "high", "costs")
PRUNED, SVD, INT8, BOTH = (f"{names.TEACHER}-{part}" for part in ("imp", "svd", "int8", "imp-int8"))
SINGLE = (f"{names.TEACHER}-kd", PRUNED, SVD, INT8)
BESIDE = {statistics.HELP: "beats it", statistics.HURT: "is beaten", statistics.UNKNOWN: statistics.UNKNOWN}
NONE = "none as small"
WORDS = {statistics.HELP: "needs fewer", statistics.HURT: "needs more", statistics.UNKNOWN: statistics.UNKNOWN}
LEAST_TRIED = 3  # values of a way, fewer have no middle


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


def short(node: str) -> str:
    """The name of a node for people: ``teacher-imp-int8`` → ``pruning + int8``, the teacher ``whole``."""
    return tables.label(node).replace(names.TEACHER, "whole")


def smallest(nodes: pd.DataFrame, within: float) -> str:
    """The node of the smallest file whose validation bits are at most ``within`` above the teacher's."""
    whole = nodes.set_index("node")["val_bits"][names.TEACHER]
    held = nodes[nodes["val_bits"] <= whole + within]
    return held.loc[held["bytes"].idxmin(), "node"]


def surely_within(nodes: pd.DataFrame, within: float, said: str) -> str:
    """Which combinations cost at most ``within`` bits by their whole interval, in words; ``said``: that bound's."""
    smaller = nodes[nodes["node"] != names.TEACHER]
    held = [short(node) for node in smaller["node"][smaller["costs_high"] <= within]]
    return f"Within {said} by the whole interval: {joined(held)} ({len(held)} of {len(smaller)} combinations)."


# --- narrower networks -----------------------------------------------------------------------------------------


def of_as_many_bytes(nodes: pd.DataFrame, dense: pd.DataFrame) -> np.ndarray:
    """Test bits of the narrower dense network of as many bytes as each of ``nodes``, (n,); NaN below all.

    Those of each form, float32 or int8, are a line along the logarithm of bytes. The better one counts, as in
    :func:`studylib.experiments.sweep_narrower.at_equal_cost`.

    Args:
        nodes, dense: rows with bytes; ``dense`` with form and test_bits, too.
    """
    rivals = dense.assign(kind=dense["form"], gain=-dense["test_bits"])
    return np.array([-sweep_narrower.at_equal_cost(rivals, "bytes", "gain", size) for size in nodes["bytes"]])


def beside_narrower(nodes: pd.DataFrame, dense: pd.DataFrame) -> pd.Series:
    """Bits that each node needs less than the narrower dense network of as many bytes, of one seed; by node.

    Those are of :func:`of_as_many_bytes`.

    Args:
        nodes, dense: rows with bytes and test_bits; ``nodes`` with node, ``dense`` with form, too.
    """
    return pd.Series(of_as_many_bytes(nodes, dense) - nodes["test_bits"].to_numpy(), index=nodes["node"])


def against_narrower(rows: pd.DataFrame, alone: pd.DataFrame) -> pd.DataFrame:
    """Each combination beside narrower networks at equal bytes, seed by seed.

    Columns are node, bytes, less, low, high, seeds, verdict. ``less`` is in bits, its interval (95 %) Student's over
    the seeds. "raises": it needs fewer. NaN and "cannot tell" where a seed has no narrower network as small.
    """
    seeds = sorted(set(rows["seed"]))
    by_seed = [beside_narrower(rows[rows["seed"] == s], alone[alone["seed"] == s]) for s in seeds]
    less, size, found = pd.concat(by_seed, axis=1), rows.groupby("node")["bytes"].mean(), []
    for node, values in less.iterrows():
        low, high = statistics.t_interval(values.to_numpy())
        row = {"node": node, "bytes": size[node], "less": values.mean(skipna=False), "low": low, "high": high}
        found.append(row | {"seeds": len(seeds), "verdict": statistics.judge((low, high))})
    return pd.DataFrame(found)


def beside_listed(beside: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`against_narrower` for people, without those that are dense networks themselves."""
    known = beside[~beside["node"].isin([names.TEACHER, INT8])]
    rows = known.to_dict("records")
    less = [_thousandths(row["less"], row["low"], row["high"]) for row in rows]
    word = [NONE if math.isnan(row["less"]) else BESIDE[row["verdict"]] for row in rows]
    named = {"combination": known["node"].map(short), "bytes": known["bytes"].round().astype(int)}
    return pd.DataFrame(named | {"fewer thousandths of a bit": less, "narrower network": word})


def narrower_told(beside: pd.DataFrame) -> str:
    """Which combinations beat narrower networks at equal bytes, which cannot be told, and how many others, in words."""
    shown = beside_listed(beside)
    by = {word: list(group["combination"]) for word, group in shown.groupby("narrower network")}
    better, worse = (by.get(BESIDE[verdict], []) for verdict in (statistics.HELP, statistics.HURT))
    parts = [f"Fewer bits than a narrower network of as many bytes: {joined(better)}"]
    parts += [f"Cannot be told: {joined(by[statistics.UNKNOWN])}"] if statistics.UNKNOWN in by else []
    parts += [f"No narrower network is as small: {joined(by[NONE])}"] if NONE in by else []
    return ". ".join([*parts, f"More bits: {len(worse)} of {len(shown)} combinations"]) + "."


# --- what carries over from classifiers ------------------------------------------------------------------------

LITTLE = 1.0  # percent or points: what counts as nearly free, or as next to nothing
YES, NO = "yes", "no"
CARRIES, NOT, HERE, NEITHER = "carries over", "does not", "holds here alone", "holds in neither"
VERDICTS = {(YES, YES): CARRIES, (YES, NO): NOT, (NO, YES): HERE, (NO, NO): NEITHER}  # there, here → word
TITLES = {CARRIES: "Carries over", NOT: "Does not", HERE: "Holds here alone", NEITHER: "Holds in neither"}
TITLES |= {statistics.UNKNOWN: "Cannot be told"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is asked of classifiers and of a network that generates: where the whole interval lies.

    Args:
        says: in words.
        there, here: the units of what is measured of classifiers, and of the chapter's network.
        above: it holds above ``bound``; else at it and below.
    """

    says: str
    there: str
    here: str
    bound: float
    above: bool

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


FREE, SAVES, LOW_RANK, NARROW, COMMON = FINDINGS = (
    Finding("int8 is nearly free", "points of accuracy lost", "% more bits", LITTLE, False),
    Finding("pruning saves most of the file", *["points more than the next technique"] * 2, 0, True),
    Finding("SVD saves next to nothing at Δ = 1", *["% of the file"] * 2, LITTLE, False),
    Finding("pruning + int8 beats a narrower network", "points of accuracy", "% fewer bits", 0, True),
    Finding("PCD is no better than the better sum", "points of hypervolume", "% fewer bits", 0, False),
)


def margin(saved: pd.DataFrame) -> pd.Series:
    """Points that pruning saves over the next of :data:`SINGLE`; ``saved`` has a row a seed, a column a node."""
    return saved[PRUNED] - saved[[name for name in SINGLE if name != PRUNED]].max(axis=1)


def over(values: pd.Series) -> tuple[float, float, float]:
    """Mean and Student's interval (95 %) over the seeds."""
    return values.mean(), *statistics.t_interval(values.to_numpy())


def classifiers(*studies: str) -> dict[Finding, tuple[str, float, float, float]]:
    """Finding → study, value, low and high of the first published one of ``studies`` of classifiers.

    What it does not measure is of the next. Files, int8 and the comparison with narrower networks are
    chapter 7's. PCD is chapter 6's, against the better sum. Empty where the first is not here.
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
        for least in sorted(there.measured(study, "moo").get("moo_tuned", []), key=lambda each: each.value)[:1]:
            found.setdefault(COMMON, (study, least.value, least.low, least.high))
    return found


def carried(
    rows: pd.DataFrame, nodes: pd.DataFrame, beside: pd.DataFrame, pcd: pd.DataFrame, studies: Sequence[str]
) -> pd.DataFrame:
    """Each of :data:`FINDINGS` of the published classifiers and of the chapter's network, and whether both agree.

    Args:
        rows: of the combinations; ``nodes`` is their :func:`summary`, ``beside`` of :func:`against_narrower`.
        pcd: what PCD saves over each sum, rows of saved, low and high. The least counts.
        studies: of classifiers, in the order in which they are asked.

    Returns:
        finding, holds (where, in words), classifiers and here (in words), value, low, high (of this network), verdict.
    """
    by, size = nodes.set_index("node"), rows.pivot(index="seed", columns="node", values="bytes")
    saved, whole = 100 * (1 - size.div(size[names.TEACHER], axis=0)), by["test_bits"][names.TEACHER]
    least = pcd.sort_values("saved")[["saved", "low", "high"]].to_numpy()[:1]
    here = {
        FREE: 100 * by.loc[INT8, ["costs", "costs_low", "costs_high"]].to_numpy(dtype=float) / whole,
        SAVES: over(margin(saved)),
        LOW_RANK: over(saved[SVD]),
        NARROW: 100 * beside.set_index("node").loc[BOTH, ["less", "low", "high"]].to_numpy(dtype=float) / whole,
        COMMON: 100 * least[0] / whole if len(least) else [math.nan] * 3,
    }
    there, found = classifiers(*studies), []
    for finding, each in here.items():
        study, *known = there.get(finding, ("", *[math.nan] * 3))
        where = "" if study in ("", *studies[:1]) else f", {study}"
        held = finding.held(*known[1:]), finding.held(*map(float, each[1:]))
        row = {"finding": finding.says, "holds": finding.holds}
        row["classifiers"] = f"{held[0]}: {said(known)} {finding.there}{where}" if study else "–"
        row["here"] = f"{held[1]}: {said(each)} {finding.here}"
        row |= dict(zip(("value", "low", "high"), map(float, each), strict=True))
        found.append(row | {"verdict": VERDICTS.get(held, statistics.UNKNOWN)})
    return pd.DataFrame(found)


def carried_listed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`carried` for people."""
    titles = {"holds": "holds if it is", "classifiers": "of classifiers"}
    return rows[["finding", "holds", "classifiers", "here", "verdict"]].rename(columns=titles)


def carried_told(rows: pd.DataFrame) -> str:
    """The findings by verdict, in words."""
    by = {word: list(rows["finding"][rows["verdict"] == word]) for word in TITLES}
    return " ".join(f"{TITLES[word]}: {'; '.join(each)}." for word, each in by.items() if each)


# --- common descent against weighted sums ----------------------------------------------------------------------


def against_listed(against: pd.DataFrame, named: dict[str, str] | None = None) -> pd.DataFrame:
    """Rows of what PCD saves over weighted sums, for people: objective, rival, saved, low, high, verdict; stage.

    Args:
        named: objective → its name for people, if it is another.
    """
    saved = [_thousandths(row.saved, row.low, row.high) for row in against.itertuples()]
    first = {"second objective": against["objective"].replace(named or {})}
    first |= {"then": against["stage"]} if "stage" in against else {}
    last = {"PCD against the": against["rival"], "saves, thousandths of a bit": saved}
    return pd.DataFrame(first | last | {"PCD": against["verdict"].map(WORDS)})


def against_told(against: pd.DataFrame, named: dict[str, str] | None = None) -> str:
    """How often PCD needs fewer and more bits than a weighted sum, and of which objectives, in words."""
    shown = against_listed(against, named)
    parts = []
    for verdict in (statistics.HELP, statistics.HURT):
        there = shown[against["verdict"] == verdict]
        of = f" ({joined(list(dict.fromkeys(there['second objective'])))})" if len(there) else ""
        parts.append(f"{len(there) or 'none'}{of}")
    unknown = (against["verdict"] == statistics.UNKNOWN).sum()
    return (
        f"Of {len(shown)} comparisons with a weighted sum, PCD needs fewer bits in {parts[0]} and more in {parts[1]}. "
        f"In {unknown} these seeds cannot tell."
    )


def at_an_end(rows: pd.DataFrame) -> pd.Series:
    """(objective, way) → the best value, of ways that have it at an end of those tried. Fewer than three have no end.

    Args:
        rows: all that was tried: objective, way, value, and whether the value was chosen.
    """
    best = rows[rows["chosen"]].groupby(["objective", "way"], sort=False)["value"].first()
    values = rows.groupby(["objective", "way"])["value"].agg(["min", "max", "nunique"]).loc[best.index]
    return best[(values["nunique"] >= LEAST_TRIED) & ((best == values["min"]) | (best == values["max"]))]


def decided(against: pd.DataFrame, tried: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``against`` whose two ways have their best values within those tried: of others no claim is made."""
    ends = set(at_an_end(tried).index) if len(against) else set()
    ways = [name for name in tried["way"].unique() if name.startswith("PCD")]
    fair = [not {(r.objective, way) for way in (r.rival, *ways)} & ends for r in against.itertuples()]
    return against[fair]


def ends_told(rows: pd.DataFrame, named: dict[str, str] | None = None) -> str:
    """What :func:`at_an_end` finds, as Markdown; ``named``: objective → its name for people, if it is another."""
    found, ways = at_an_end(rows), len(rows.groupby(["objective", "way"]))
    if not len(found):
        return f"The best value of each of {ways} ways lies within the values that were tried."
    told = [f"The best value of {len(found)} of {ways} ways is an end of those tried. Values beyond it may be better:", ""]
    least = rows.groupby(["objective", "way"])["value"].min()
    for (objective, way), best in found.items():
        letter, end = "τ" if way.startswith("PCD") else "λ", "least" if best == least[objective, way] else "greatest"
        told.append(f"- {(named or {}).get(objective, objective)}, {way}: {letter} = {best:g}, the {end}")
    return "\n".join(told)


# --- words -----------------------------------------------------------------------------------------------------


def said(three, digits: int = 2) -> str:
    """A value with its interval, in words; without one, alone."""
    value, low, high = map(float, three)
    ends = "" if math.isnan(low) else f" ({low:+.{digits}f} to {high:+.{digits}f})"
    return "–" if math.isnan(value) else f"{value:+.{digits}f}{ends}"


def _thousandths(*three: float) -> str:
    return said([1e3 * each for each in three], 1)


def joined(words: Sequence[str], none: str = "none") -> str:
    """``a, b and c``; ``none`` where there are none."""
    *most, last = words or [none]
    return f"{', '.join(most)} and {last}" if most else last


def beaten(marks: pd.DataFrame, whole: float, bits: str, digits: int) -> list[str]:
    """Which marks need more than ``whole`` bits, and which do not, in words; ``bits`` is their column."""
    parts = [(whole < row[bits], f"{row['name']} ({row[bits]:.{digits}f})") for row in marks.to_dict("records")]
    return [joined([name for better, name in parts if better == want]) for want in (True, False)]
