"""Intervals over seeds and images, what they let one say, Pareto fronts, rivals at equal cost."""

import numpy as np
import pandas as pd

HELP, HURT, UNKNOWN = "raises", "lowers", "cannot tell"
MANY = 1000  # seeds beyond which nobody asks how many would decide


def t_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of ``values``; (nan, nan) for fewer than two."""
    from scipy import stats

    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


def seeds_to_decide(half: float, seeds: int, distance: float, level: float = 0.95, most: int = MANY) -> float:
    """How many seeds would make Student's interval narrower than ``distance`` on either side, if they spread alike.

    Args:
        half: half the width of the interval that ``seeds`` gave.
        distance: from the mean to the nearest value that it has to be told from, in the unit of ``half``.

    Returns:
        At least two; infinity where more than ``most`` would be needed, NaN where one seed says nothing of the spread.
    """
    from scipy import stats

    if seeds < 2 or not np.isfinite(half):
        return float("nan")
    spread = half * seeds**0.5 / stats.t.ppf((1 + level) / 2, seeds - 1)
    count = np.arange(2, most + 1)
    enough = count[stats.t.ppf((1 + level) / 2, count - 1) * spread / count**0.5 < abs(distance)]
    return float(enough[0]) if len(enough) else float("inf")


def over_both(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of ``values`` (seeds, images), and an interval for another draw of seeds and of images.

    The half-widths of Student's intervals over seeds and over images add in quadrature, as independent sources do; what
    a seed does to single images is in both, so that the interval is, if anything, wide. Seeds that happen to agree, in
    the one image that differs, say, thus make no certainty. One seed leaves the interval over images.
    """
    values = np.atleast_2d(np.asarray(values, dtype=float))
    mean = values.mean()
    halves = [high - mean for _, high in (t_interval(values.mean(1), level), t_interval(values.mean(0), level))]
    half = np.sqrt(np.nansum(np.square(halves)))
    return mean, mean - half, mean + half


def judge(*intervals: tuple[float, float]) -> str:
    """What the intervals of an effect let one say: raises, lowers, or cannot tell. NaN intervals have no say."""
    known = [(low, high) for low, high in intervals if not np.isnan(low)]
    if known and all(low > 0 for low, _ in known):
        return HELP
    if known and all(high < 0 for _, high in known):
        return HURT
    return UNKNOWN


def pareto(table: pd.DataFrame, cost: str, gain: str) -> pd.Series:
    """True for each row that no other beats: none costs as little and gains more, or costs less and gains as much."""
    c, g = table[cost].to_numpy(), table[gain].to_numpy()
    beaten = [((c <= c[i]) & (g > g[i])).any() or ((c < c[i]) & (g >= g[i])).any() for i in range(len(table))]
    return pd.Series(~np.array(beaten, dtype=bool), index=table.index)


def at_equal_cost(rivals: pd.DataFrame, cost: str, gain: str, at: float) -> float:
    """The best ``gain`` that any kind of rival has at the cost ``at``, interpolated along its line over log cost.

    Args:
        rivals: rows of kind, ``cost`` and ``gain``. A kind counts at its largest where ``at`` is beyond it.

    Returns:
        NaN where every rival costs more.
    """
    found = [float("nan")]
    for _, line in rivals.sort_values(cost).groupby("kind"):
        if line[cost].iloc[0] <= at:
            found.append(float(np.interp(np.log(at), np.log(line[cost]), line[gain])))
    return float(np.nanmax(found)) if len(found) > 1 else float("nan")
