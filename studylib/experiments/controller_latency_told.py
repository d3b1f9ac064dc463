"""What latencies of chapter 14 say: by way and budget, rank correlations, and what breaks these."""

import math

import numpy as np
import pandas as pd

from studylib.experiments.controller import WHOLE
from studylib.experiments.controller_told import interval


def rank_correlation(table: pd.DataFrame, left: str, right: str, draws: int = 2000) -> tuple[float, float, float]:
    """Spearman's correlation of two columns, with its 95 % interval over networks drawn anew.

    The bootstrap's percentiles (Efron and Tibshirani 1993, chapter 13), of draws that are not all of one network.
    """

    from scipy import stats

    both, draw = table[[left, right]].to_numpy(float).T, np.random.default_rng(0)  # (2, networks)
    drawn = both[:, draw.integers(both.shape[1], size=(draws, both.shape[1]))]  # (2, draws, networks)
    first, second = stats.rankdata(np.concatenate([both[:, None], drawn], 1), axis=2)
    first, second = (each - each.mean(1, keepdims=True) for each in (first, second))
    lengths = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    found = np.divide((first * second).sum(1), lengths, out=np.full(draws + 1, math.nan), where=lengths > 0)
    low, high = pd.Series(found[1:]).quantile([0.025, 0.975])
    return float(found[0]), float(low), float(high)


def shapes(times: pd.DataFrame) -> pd.DataFrame:
    """A row per budget and shape of the small networks, their latencies averaged: what is alike counts once.

    Alike are networks of as many multiply-adds that write as many numbers. Uniform and narrow ones are, in all seeds.
    """
    small = times[times["way"] != WHOLE]
    return small.groupby(["budget", "multiply_adds", "written"])["latency_ms"].mean().reset_index()


def by_way(times: pd.DataFrame) -> pd.DataFrame:
    """Milliseconds of each way and budget, for a reader: means over seeds. The whole network is its last row."""
    found = times.groupby(["budget", "way"], sort=False)["latency_ms"].mean().reset_index()
    found = pd.concat([found[found["way"] != WHOLE], found[found["way"] == WHOLE]])
    wide = found.assign(budget=[f"{100 * each:g} %" for each in found["budget"]])
    wide = wide.pivot(index="way", columns="budget", values="latency_ms")
    wide = wide.loc[list(dict.fromkeys(found["way"])), list(dict.fromkeys(f"{100 * b:g} %" for b in found["budget"]))]
    return wide.map(lambda ms: "–" if math.isnan(ms) else f"{ms:.2f}").reset_index().rename_axis(columns=None)


def correlations(times: pd.DataFrame) -> list[dict]:
    """Rank correlation of latency with multiply-adds and with numbers written: of all :func:`shapes`, at each budget.

    Rows: networks, n, column, correlation, low, high.
    """
    part = shapes(times)
    groups = [("all", part), *((f"budget {100 * budget:g} %", each) for budget, each in part.groupby("budget"))]
    rows = []
    for name, group in groups:
        for column in ("multiply_adds", "written"):
            found, low, high = rank_correlation(group, column, "latency_ms")
            rows.append(
                {"networks": name, "n": len(group), "column": column} | dict(correlation=found, low=low, high=high)
            )
    return rows


def correlated(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`correlations` for a reader."""
    titles = {"multiply_adds": "with multiply-adds", "written": "with numbers written"}
    rows = []
    for name, part in found.groupby("networks", sort=False):
        row = {"networks": name, "n": int(part["n"].iloc[0])}
        for each in part.itertuples():
            row[titles[each.column]] = interval(each.correlation, each.low, each.high)
        rows.append(row)
    return pd.DataFrame(rows)


def overhead(times: pd.DataFrame) -> dict:
    """What a straight line through latency over multiply-adds says: ms at none, ms of the whole, share of it."""
    _, least = np.polyfit(times["multiply_adds"], times["latency_ms"], 1)
    whole = times.loc[times["way"] == WHOLE, "latency_ms"].item()
    return {"least": float(least), "whole": whole, "share": float(least) / whole}


def noise(times: pd.DataFrame) -> tuple[float, float]:
    """Standard deviations of latency in ms: among networks of one shape, and among all of one budget, pooled."""
    small = times[times["way"] != WHOLE]

    def pooled(columns: list[str]) -> float:
        groups = small.groupby(columns)["latency_ms"]
        spread, free = groups.var(ddof=1).fillna(0), groups.size() - 1
        return math.sqrt((spread * free).sum() / free.sum()) if free.sum() else math.nan

    return pooled(["budget", "multiply_adds", "written"]), pooled(["budget"])


def breaks(times: pd.DataFrame, found: pd.DataFrame) -> str:
    """Sentences on what breaks the correlation of latency and multiply-adds, and what the clock cannot tell."""
    line = overhead(times)
    part = times[times["way"] != WHOLE]
    smallest = part[part["budget"] == part["budget"].min()]
    share = smallest["multiply_adds"].mean() / times.loc[times["way"] == WHOLE, "multiply_adds"].item()
    alike, all_of = noise(times)
    one = found[(found["networks"] != "all")].pivot(index="networks", columns="column", values="correlation")
    return (
        f"{share:.0%} of the multiply-adds take {smallest['latency_ms'].mean() / line['whole']:.0%} of the time. "
        f"The straight line through all leaves {line['least']:.2f} ms at none: every layer is still called. "
        f"At one budget multiply-adds hardly differ (rank correlations {_range(one['multiply_adds'])}). "
        f"With numbers written rank correlations there are {_range(one['written'])}. "
        f"Standard deviation: {alike:.2f} ms among networks of one shape, {all_of:.2f} among all of a budget."
    )


def _range(values: pd.Series) -> str:
    return f"{values.min():+.2f} to {values.max():+.2f}"
