"""Chapter 6: hypervolume in the sparsity–accuracy plane, compared between ways to train.

Rows are those of :func:`studylib.experiments.moo_training.run`.
"""

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from studylib.results import statistics


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """Area that ``points`` dominate above ``reference``, both coordinates to be large (Zitzler and Thiele 1998).

    Args:
        points: pairs; those not above ``reference`` in both coordinates add nothing.

    Raises:
        ValueError: something is not a pair of finite numbers.
    """
    pairs = [tuple(map(float, p)) for p in [reference, *points]]
    if any(len(p) != 2 or not all(map(math.isfinite, p)) for p in pairs):
        raise ValueError("points and reference: expected pairs of finite numbers")
    (left, height), area = pairs[0], 0.0
    for x, y in sorted(pairs[1:], reverse=True):
        if x > left and y > height:
            area += (x - pairs[0][0]) * (y - height)
            height = y
    return area


def likeness(tau: float, cosine: float) -> float:
    """Cosine between PCD's direction and g̃₁ + τ g̃₂, the weighted sum of normalized gradients, of two objectives.

    PCD's is g̃₁ + max(τ − cosine, 0) g̃₂ (arXiv 2606.29521, the closed form for two objectives). So the nearer to
    orthogonal the gradients are, the nearer it is to that sum.

    Args:
        tau: τ and λ alike.
        cosine: between the two gradients, both of norm 1.
    """
    pcd, weighted = (1.0, max(tau - cosine, 0.0)), (1.0, tau)

    def product(a, b):
        return a[0] * b[0] + a[1] * b[1] + cosine * (a[0] * b[1] + a[1] * b[0])

    lengths = product(pcd, pcd) * product(weighted, weighted)
    return product(pcd, weighted) / math.sqrt(lengths) if lengths > 0 else 0.0


def volume(rows: pd.DataFrame, column: str, classes: int) -> float:
    """Hypervolume of the rows of one way, value, seed and stage, as a share of the largest possible.

    The axes are log₂(weights / weights left) and the accuracy in ``column``. The reference point is (0, 1 / classes), a
    dense network at chance. 1 would be full accuracy at the highest sparsity.
    """
    depth = -(1 - rows["sparsity"]).map(math.log2)
    points = list(zip(depth, rows[column], strict=True))
    return hypervolume(points, (0.0, 1 / classes)) / (depth.max() * (1 - 1 / classes))


def volumes(rows: pd.DataFrame, column: str, classes: int) -> pd.DataFrame:
    """:func:`volume` of each way, value, stage and seed: a row each, in the order of ``rows``."""
    keys = ["way", "value", "stage", "seed"]
    found = rows.groupby(keys, sort=False)[["sparsity", column]].apply(volume, column, classes)
    return found.rename("volume").reset_index()


def best_values(rows: pd.DataFrame, classes: int) -> dict[str, float]:
    """Way → the value with the largest mean of both stages' volumes on validation images; the first of equals."""
    mean = volumes(rows, "val_accuracy", classes).groupby(["way", "value"], sort=False)["volume"].mean()
    return {way: float(part.idxmax()[1]) for way, part in mean.groupby(level=0, sort=False)}


def against(volumes: pd.DataFrame, rival: str) -> pd.DataFrame:
    """Each way's volume beside ``rival``'s, seed by seed: a row per stage and way, in the order of ``volumes``.

    Args:
        volumes: rows of :func:`volumes`, one value per way.

    Returns:
        stage, way, seeds: of the row.
        mean, sd: of its volume.
        gain, low, high: mean difference from ``rival`` and its Student's interval at 95 %.
        verdict: "more", "less" or "cannot tell"; a dash for ``rival``.
    """
    words, rows = {statistics.HELP: "more", statistics.HURT: "less"}, []
    for stage, part in volumes.groupby("stage", sort=False):
        wide = part.pivot(index="seed", columns="way", values="volume")
        for way in part["way"].unique():
            gain = (wide[way] - wide[rival]).to_numpy()
            low, high = statistics.t_interval(gain)
            verdict = statistics.judge((low, high))
            row = {"stage": stage, "way": way, "mean": wide[way].mean(), "sd": wide[way].std(), "gain": gain.mean()}
            row |= {"low": low, "high": high, "verdict": words.get(verdict, verdict) if way != rival else "–"}
            rows.append(row | {"seeds": len(gain)})
    return pd.DataFrame(rows)


def said(row) -> str:
    """A row of :func:`against` in words: points of the plane gained, their interval if there is one, the verdict."""
    interval = "one seed" if math.isnan(row.low) else f"{100 * row.low:+.1f} to {100 * row.high:+.1f}"
    return f"{100 * row.gain:+.1f} ({interval}), {row.verdict}"
