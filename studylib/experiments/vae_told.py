"""What chapter 11's rows say: means, narrower networks at equal bytes, what carries over from classifiers."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from studylib.disk import files
from studylib.experiments import generative_told as told
from studylib.experiments import vae_objectives
from studylib.experiments.generative_told import BOTH, CARRIES, INT8, NOT, SINGLE, SVD, summary
from studylib.experiments.published import Figures
from studylib.experiments.vae import BITS
from studylib.results import statistics, tables
from studylib.tree import names

WITHIN = 0.01  # share of the whole network's bits that a small file may cost
LITTLE = 1.0  # percent: what counts as nearly free, or as nothing
WORDS = {statistics.HELP: "needs more", statistics.HURT: "needs fewer", statistics.UNKNOWN: statistics.UNKNOWN}
BESIDE = {statistics.HELP: "beats it", statistics.HURT: "is beaten", statistics.UNKNOWN: statistics.UNKNOWN}
PICTURES = ["network", "kind"]
NONE = "none as small"
ELSEWHERE = "digits"  # the study asked where that of the data set has not published a chapter


def listed(nodes: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`summary` for people; costs in percent of the whole network's bits."""
    whole = nodes.set_index("node")[["bytes", "test_bits"]].loc[names.TEACHER]
    costs = [told.said(100 * np.array([r.costs, r.costs_low, r.costs_high]) / whole["test_bits"]) for r in _each(nodes)]
    return pd.DataFrame(
        {
            "combination": nodes["node"].map(short),
            "file kB": nodes["bytes"] / 1000,
            "saved %": 100 * (1 - nodes["bytes"] / whole["bytes"]),
            "zeros %": 100 * nodes["zeros"],
            BITS: nodes["test_bits"].map("{:.4f}".format),
            "costs %": [
                "–" if node == names.TEACHER else cost for node, cost in zip(nodes["node"], costs, strict=True)
            ],
            "against the whole": ["–" if r.node == names.TEACHER else WORDS[r.verdict] for r in _each(nodes)],
        }
    )


def short(node: str) -> str:
    """The name of a node for people: ``teacher-imp-int8`` → ``pruning + int8``, the teacher ``whole``."""
    return tables.label(node).replace(names.TEACHER, "whole")


def smallest(nodes: pd.DataFrame, within: float = WITHIN) -> str:
    """The smallest file whose bits on validation images are at most that share above the teacher's: its node."""
    return told.smallest(nodes, within * nodes.set_index("node")["val_bits"][names.TEACHER])


def beside_narrower(nodes: pd.DataFrame, dense: pd.DataFrame) -> pd.Series:
    """Bits that each node needs less than the narrower dense network of as many bytes, of one seed; by node.

    Those are of :func:`studylib.experiments.generative_told.of_as_many_bytes`.

    Args:
        nodes, dense: rows with bytes and test_bits; ``nodes`` with node, ``dense`` with form, too.
    """
    return pd.Series(told.of_as_many_bytes(nodes, dense) - nodes["test_bits"].to_numpy(), index=nodes["node"])


def against_narrower(rows: pd.DataFrame, alone: pd.DataFrame) -> pd.DataFrame:
    """Each combination beside narrower networks at equal bytes, seed by seed: node, less, low, high, seeds, verdict.

    ``less`` is in bits per dimension, its interval (95 %) Student's over the seeds. "raises": it needs fewer. NaN and
    "cannot tell" where a seed has no narrower network as small.
    """
    seeds = sorted(set(rows["seed"]))
    by_seed = [beside_narrower(rows[rows["seed"] == s], alone[alone["seed"] == s]) for s in seeds]
    less, found = pd.concat(by_seed, axis=1), []
    for node, values in less.iterrows():
        low, high = statistics.t_interval(values.to_numpy())
        row = {"node": node, "less": values.mean(skipna=False), "low": low, "high": high, "seeds": len(seeds)}
        found.append(row | {"verdict": statistics.judge((low, high))})
    return pd.DataFrame(found)


def beside_listed(beside: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`against_narrower` for people, in thousandths of a bit."""
    known = beside[~beside["node"].isin([names.TEACHER, INT8])]  # which are dense networks themselves
    less = ["–" if math.isnan(r.less) else told.said(1e3 * np.array([r.less, r.low, r.high]), 1) for r in _each(known)]
    word = [NONE if math.isnan(r.less) else BESIDE[r.verdict] for r in _each(known)]
    return pd.DataFrame({"combination": known["node"].map(short), "needs less, mbit": less, "narrower network": word})


def carried(rows: pd.DataFrame, beside: pd.DataFrame, against: pd.DataFrame, dataset: str) -> list[dict]:
    """What is known of classifiers beside what this network shows: a row a finding.

    Columns:
        finding, unit; classifiers: what was measured of them in words, on the same data set if that is published.
        value, low, high: of the autoencoder, the interval (95 %) over seeds, or over seeds and images.
        verdict: whether it carries over; "cannot tell" where the interval holds both.
    """
    bits, size = (rows.pivot(index="seed", columns="node", values=name) for name in ("test_bits", "bytes"))
    saved = 100 * (1 - size[list(SINGLE)].div(size[names.TEACHER], axis=0))
    costs = 100 * (bits[INT8] / bits[names.TEACHER] - 1)
    whole, narrow = bits[names.TEACHER].mean(), beside.set_index("node").loc[BOTH]
    tuned = against[(against["objective"] == vae_objectives.L1) & (against["stage"] == vae_objectives.TUNED)]
    pcd = tuned.loc[tuned["saved"].idxmin()] if len(tuned) else None
    none = (math.nan,) * 3
    found = [
        ("int8 is nearly free", "% more bits", told.over(costs), LITTLE, -1),
        ("pruning saves most of the file", "points over the next", told.over(told.margin(saved)), 0, 1),
        ("SVD saves nothing at Δ = 1", "% of the file", told.over(saved[SVD]), LITTLE, -1),
        (
            "pruning + int8 beats a narrower network",
            "% fewer bits",
            100 * narrow[["less", "low", "high"]] / whole,
            0,
            1,
        ),
        (
            "PCD is no better than the tuned sum",
            "% fewer bits",
            none if pcd is None else 100 * pcd[["saved", "low", "high"]] / whole,
            0,
            -1,
        ),
    ]
    known = of_classifiers(dataset)
    return [
        {"finding": finding, "classifiers": known.get(number, "–"), "unit": unit}
        | dict(zip(("value", "low", "high"), map(float, each), strict=True))
        | {"verdict": _carries(*map(float, each), bound, sign)}
        for number, (finding, unit, each, bound, sign) in enumerate(found)
    ]


def _carries(value: float, low: float, high: float, bound: float, sign: int) -> str:
    """Whether the interval lies above ``bound`` (``sign`` 1) or below it; of one seed nothing can be told."""
    if math.isnan(low):
        return statistics.UNKNOWN
    above, below = low > bound, high <= bound
    return statistics.UNKNOWN if not above and not below else CARRIES if (above if sign > 0 else below) else NOT


def of_classifiers(dataset: str) -> dict[int, str]:
    """Finding → what the published classifiers of that data set show, in words; empty where none is published.

    What they do not say is of :data:`ELSEWHERE`, which is then named.
    """
    studies = Figures(files.root() / "figures").studies
    own = [study for study, about in studies.items() if about["data"]["name"] == dataset and "-" not in study]
    return told.classifiers(own[0], ELSEWHERE) if own else {}


def marks_listed(marks: pd.DataFrame, nodes: pd.DataFrame, rows: pd.DataFrame, small: str) -> pd.DataFrame:
    """What has to be beaten beside the whole and the smallest network: name and bits, intervals in brackets."""
    found = [(row["name"], f"{row[BITS]:.4f}") for row in marks.to_dict("records")]
    for node in dict.fromkeys((names.TEACHER, small)):
        of = rows[rows["node"] == node]
        ends = [of[end].mean() for end in ("low", "high")]
        found.append((short(node), f"{of['test_bits'].mean():.4f} ({ends[0]:.4f} to {ends[1]:.4f})"))
    return pd.DataFrame(found, columns=["by", BITS])


def marks_told(marks: pd.DataFrame, nodes: pd.DataFrame) -> str:
    """Which marks the whole network beats, in words."""
    whole = nodes.set_index("node")["test_bits"][names.TEACHER]
    beaten, rest = told.beaten(marks, whole, BITS, 3)
    return f"The whole network needs {whole:.3f} bits per dimension. It beats: {beaten}. It does not beat: {rest}."


def nodes_told(nodes: pd.DataFrame, small: str) -> str:
    """The smallest file within :data:`WITHIN`, and how many combinations cost no more than that, in words."""
    by = nodes.set_index("node")
    whole, least = by.loc[names.TEACHER], by.loc[small]
    held = ((by["costs_high"] <= WITHIN * whole["test_bits"]) & (by.index != names.TEACHER)).sum()
    cost = 100 * least["costs"] / whole["test_bits"]
    return (
        f"Within {WITHIN:.0%} of the whole network's bits, by their whole interval: "
        f"{held} of {len(by) - 1} combinations. "
        f"The smallest within it on validation images is {short(small)}: {least['bytes']:,.0f} bytes, "
        f"{1 - least['bytes'] / whole['bytes']:.1%} saved, {cost:+.2f} % bits on test images."
    )


def images_told(images: pd.DataFrame, small: str) -> str:
    """How far reconstructions are from their images, of the whole and of the smallest network, in words."""
    levels = {key: np.stack([[int(d, 16) for d in p] for p in of["pixels"]]) for key, of in images.groupby(PICTURES)}
    true = levels["", "image"]
    gaps = {name: np.abs(levels[name, "reconstruction"] - true).mean() / 15 for name in (names.TEACHER, small)}
    said = " and ".join(f"{gap:.2%} by {short(name)}" for name, gap in gaps.items())
    return f"Reconstructions differ from their {len(true)} images by {said}, in the mean of all pixels."


def narrower_told(beside: pd.DataFrame) -> str:
    """How many combinations beat narrower networks at equal bytes, in words."""
    shown = beside_listed(beside)
    by = {word: list(group["combination"]) for word, group in shown.groupby("narrower network", sort=False)}
    order = [word for word in (*BESIDE.values(), NONE) if word in by]
    return "; ".join(f"{word}: {', '.join(by[word])}" for word in order)


def drawn_by(draw: Callable) -> Callable:
    """``draw`` (nodes, dense, short) for rows as they are published, of every combination and of narrower networks."""
    return lambda made, alone: draw(summary(made), summary(alone, ["width", "form"]), short)


def _each(rows: pd.DataFrame):
    return rows.itertuples()
