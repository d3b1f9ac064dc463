"""What chapters 10 and 11 say alike of their rows: means over seeds, the smallest file, findings of classifiers."""

import math
from collections.abc import Sequence
from types import ModuleType

import pandas as pd

from studylib.experiments import sweep_narrower
from studylib.experiments.generative import LONGER
from studylib.results import statistics, tables
from studylib.tree import names
from studylib.tree.published import Published

MEANS = ("bytes", "bytes_dense", "zeros", "test_bits", "val_bits", "low", "high", "costs")
PRUNED, SVD, INT8, BOTH = (f"{names.TEACHER}-{part}" for part in ("imp", "svd", "int8", "imp-int8"))
SINGLE = (f"{names.TEACHER}-kd", PRUNED, SVD, INT8)
BESIDE = {statistics.HELP: "beats it", statistics.HURT: "is beaten", statistics.UNKNOWN: statistics.UNKNOWN}
NONE, ONE = "none as small", "one seed, no interval"
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


def recovered_told(nodes: pd.DataFrame, tolerance: float, rounds: int, fraction: float) -> str:
    """Whether training recovered what pruning lost, by validation bits, and how much may be pruned, in words."""
    bits = nodes.set_index("node")["val_bits"]
    lost = bits[PRUNED] - bits[names.TEACHER]
    word = "recovered" if lost <= tolerance else "did not recover"
    return (
        f"The network {word} from pruning: {lost:.4f} validation bits are lost, {tolerance:g} were allowed. "
        f"{rounds} rounds take {1 - (1 - fraction) ** rounds:.0%} of the weights at most, as set."
    )


def recovered_of(published: Published, nodes: pd.DataFrame) -> str:
    """:func:`recovered_told` of another published study, by its own settings."""
    how = published.content["settings"]["compressing"]
    return recovered_told(nodes, how["tolerance"], how["rounds"], how["fraction"])


def distilled_told(rows: pd.DataFrame, alone: pd.DataFrame, width: int) -> str:
    """What the student of that ``width`` needs beside one trained alone, in words; empty without such a one."""
    by = alone[(alone["width"] == width) & (alone["form"] == "float32")].set_index("seed")["test_bits"]
    taught = rows[rows["node"] == f"{names.TEACHER}-kd"].set_index("seed")["test_bits"]
    if not len(by):
        return ""
    return f"Beside a student trained alone, a distilled one needs {needs((taught - by).reindex(taught.index))}."


def longer_told(rows: pd.DataFrame, alone: pd.DataFrame, width: int) -> str:
    """What the whole network saves by as many passes as it and its pruning took, in words; empty without."""
    by = alone[(alone["width"] == width) & (alone["form"] == f"float32{LONGER}")].set_index("seed")["test_bits"]
    if not len(by):
        return ""
    more = by - rows[rows["node"] == names.TEACHER].set_index("seed")["test_bits"]
    beside = " Beside that one pruned networks cost as much more." if more.mean() < 0 else ""
    return f"Trained for as many passes as it and its pruning took, the whole network needs {needs(more)}." + beside


# --- marks -----------------------------------------------------------------------------------------------------


def marks_listed(marks: pd.DataFrame, rows: pd.DataFrame, small: str, bits: str, digits: int) -> pd.DataFrame:
    """What has to be beaten beside the whole and the smallest network: name and bits, intervals in brackets.

    Args:
        marks: name, and bits in the column ``bits``.
        rows: of the combinations, with the interval of each over images or blocks.
        small: the smallest network's node.
    """
    found = [(row["name"], f"{row[bits]:.{digits}f}") for row in marks.to_dict("records")]
    for node in dict.fromkeys((names.TEACHER, small)):
        mean, low, high = rows.loc[rows["node"] == node, ["test_bits", "low", "high"]].mean()
        found.append((short(node), f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"))
    return pd.DataFrame(found, columns=["by", bits])


# --- narrower networks -----------------------------------------------------------------------------------------


def against_narrower(rows: pd.DataFrame, alone: pd.DataFrame) -> pd.DataFrame:
    """Each combination beside narrower networks at equal bytes, seed by seed.

    Narrower networks of each form, float32 or int8, are a line along the logarithm of bytes. The better one in the mean
    counts, as in :func:`studylib.experiments.sweep_narrower.of_each_seed`.

    Args:
        rows, alone: rows with seed, bytes and test_bits; ``rows`` with node, ``alone`` with form, too.

    Returns:
        Columns node, bytes, less, low, high, seeds, verdict. ``less`` is in bits, its interval (95 %) Student's over
        the seeds. "raises": it needs fewer. NaN and "cannot tell" where a seed has no narrower network as small.
    """
    rivals, found = alone.assign(kind=alone["form"], gain=-alone["test_bits"]), []
    for node, part in rows.groupby("node", sort=False):
        less = -sweep_narrower.of_each_seed(rivals, "bytes", "gain", part) - part["test_bits"]
        low, high = statistics.t_interval(less.to_numpy())
        row = {"node": node, "bytes": part["bytes"].mean(), "less": less.mean(skipna=False), "low": low, "high": high}
        found.append(row | {"seeds": rows["seed"].nunique(), "verdict": statistics.judge((low, high))})
    return pd.DataFrame(found)


def beside_listed(beside: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`against_narrower` for people, without those that are dense networks themselves."""
    known = beside[~beside["node"].isin([names.TEACHER, INT8])]
    rows = known.to_dict("records")
    less = [said([row["less"], row["low"], row["high"]], 4) for row in rows]
    word = [NONE if math.isnan(row["less"]) else ONE if row["seeds"] == 1 else BESIDE[row["verdict"]] for row in rows]
    named = {"combination": known["node"].map(short), "bytes": known["bytes"].round().astype(int)}
    return pd.DataFrame(named | {"fewer bits": less, "verdict": word})


def beside_of(rows: pd.DataFrame, alone: pd.DataFrame) -> pd.DataFrame:
    """The same of rows as they are published, of every combination and of narrower networks."""
    return beside_listed(against_narrower(rows, alone))


def narrower_told(beside: pd.DataFrame) -> str:
    """Which combinations beat narrower networks at equal bytes, which cannot be told, and how many others, in words.

    Of a single seed there is no interval: its numbers are told as they are.
    """
    shown = beside_listed(beside)
    if ONE in set(shown["verdict"]):
        one = beside[beside["node"].map(short).isin(shown.loc[shown["verdict"] == ONE, "combination"])]
        fewer = [short(node) for node in one.loc[one["less"] > 0, "node"]]
        said = f"{joined(fewer)} ({len(fewer)} of {len(one)} combinations)"
        return f"Fewer bits than a narrower network of as many bytes, of one seed and without an interval: {said}."
    by = {word: list(group["combination"]) for word, group in shown.groupby("verdict")}
    better, worse = (by.get(BESIDE[verdict], []) for verdict in (statistics.HELP, statistics.HURT))
    parts = [f"Fewer bits than a narrower network of as many bytes: {joined(better)}"]
    parts += [f"Cannot be told: {joined(by[statistics.UNKNOWN])}"] if statistics.UNKNOWN in by else []
    parts += [f"No narrower network is as small: {joined(by[NONE])}"] if NONE in by else []
    return ". ".join([*parts, f"More bits: {len(worse)} of {len(shown)} combinations"]) + "."


# --- common descent against weighted sums ----------------------------------------------------------------------


def against_listed(against: pd.DataFrame, named: dict[str, str] | None = None) -> pd.DataFrame:
    """Rows of what PCD saves over weighted sums, for people: objective, rival, saved, low, high, verdict; stage.

    Args:
        named: objective → its name for people, if it is another.
    """
    saved = [said([row.saved, row.low, row.high], 4) for row in against.itertuples()]
    first = {"second objective": against["objective"].replace(named or {})}
    first |= {"then": against["stage"]} if "stage" in against else {}
    last = {"PCD against the": against["rival"], "saves, bits": saved}
    return pd.DataFrame(first | last | {"PCD": against["verdict"].map(WORDS)})


def against_told(
    against: pd.DataFrame, tried: pd.DataFrame, named: dict[str, str] | None = None, rival: str = "a weighted sum"
) -> str:
    """How often PCD needs fewer and more bits than its ``rival``, and of which objectives, in words.

    Only comparisons count in which both ways have their best values within those ``tried`` (:func:`decided`).
    """
    fair = decided(against, tried)
    shown, left, parts = against_listed(fair, named), len(against) - len(fair), []
    for verdict in (statistics.HELP, statistics.HURT):
        there = shown[fair["verdict"] == verdict]
        of = f" ({joined(list(dict.fromkeys(there['second objective'])))})" if len(there) else ""
        parts.append(f"{len(there) or 'none'}{of}")
    unknown = (fair["verdict"] == statistics.UNKNOWN).sum()
    said = f"Of {len(shown)} comparisons with {rival}, PCD needs fewer bits in {parts[0]} and more in {parts[1]}."
    said += f" In {unknown} these seeds cannot tell." if unknown else ""
    return said + (f" Not counted, as a best value is an end of those tried: {left} more." if left else "")


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
    found, ways = at_an_end(rows), len(rows[rows["value"] > 0].groupby(["objective", "way"]))  # 0: of no second one
    if not len(found):
        return f"The best value of each of {ways} ways lies within the values that were tried."
    told = [
        f"The best value of {len(found)} of {ways} ways is an end of those tried. Values beyond it may be better:",
        "",
    ]
    least = rows.groupby(["objective", "way"])["value"].min()
    for (objective, way), best in found.items():
        letter, end = "τ" if way.startswith("PCD") else "λ", "least" if best == least[objective, way] else "greatest"
        told.append(f"- {(named or {}).get(objective, objective)}, {way}: {letter} = {best:g}, the {end}")
    return "\n".join(told)


def ends_of(published: Published | None) -> str:
    """:func:`ends_told` of another published study; empty where this copy lacks it."""
    return f"**{published.about['data']['name']}.** {ends_told(published.rows('objectives'))}" if published else ""


# --- words -----------------------------------------------------------------------------------------------------


def over(values: pd.Series) -> tuple[float, float, float]:
    """Mean and Student's interval (95 %) over the seeds."""
    return values.mean(), *statistics.t_interval(values.to_numpy())


def needs(more: pd.Series) -> str:
    """The mean of ``more`` over seeds, such as ``0.0490 fewer bits (-0.0768 to -0.0211)``, and whether they tell it."""
    value, low, high = over(more)
    _, *interval = said([value, low, high], 4).partition(" (")
    doubt = ONE if math.isnan(low) else f"these seeds {statistics.UNKNOWN}" if low <= 0 <= high else ""
    words = f"{abs(value):.4f} {'fewer' if value < 0 else 'more'} bits{''.join(interval)}"
    return f"{words}; {doubt}" if doubt else words


def said(three, digits: int = 2) -> str:
    """A value with its interval, in words; without one, alone."""
    value, low, high = map(float, three)
    ends = "" if math.isnan(low) else f" ({low:+.{digits}f} to {high:+.{digits}f})"
    return "–" if math.isnan(value) else f"{value:+.{digits}f}{ends}"


def joined(words: Sequence[str], none: str = "none") -> str:
    """``a, b and c``; ``none`` where there are none."""
    *most, last = words or [none]
    return f"{', '.join(most)} and {last}" if most else last


def beaten(marks: pd.DataFrame, whole: float, bits: str, digits: int) -> list[str]:
    """Which marks need more than ``whole`` bits, and which do not, in words; ``bits`` is their column."""
    parts = [(whole < row[bits], f"{row['name']} ({row[bits]:.{digits}f})") for row in marks.to_dict("records")]
    return [joined([name for better, name in parts if better == want]) for want in (True, False)]


def larger_told(published: Published | None, says: ModuleType) -> str:
    """The takeaway's sentences on marks and files, of another published study; None where this copy lacks it.

    Args:
        says: the chapter's module of sentences, with ``smallest``, ``marks_told`` and ``nodes_told``.
    """
    if not published:
        return "The larger study is not in this copy."
    rows, name = published.rows("combinations"), published.about["data"]["name"]
    alone = published.rows("narrower")
    nodes, beside = summary(rows), against_narrower(rows, alone)
    parts = [f"**{name}.** {says.marks_told(published.rows('marks'), nodes)}", recovered_of(published, nodes)]
    parts += [says.nodes_told(nodes, says.smallest(nodes)), narrower_told(beside)]
    shorter = not alone["form"].str.endswith(LONGER).any()
    return " ".join(parts) + " Narrower ones trained for fewer passes than pruned ones." * shorter
