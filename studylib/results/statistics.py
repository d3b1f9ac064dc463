"""The sweep as a 2ᵏ factorial design: what each technique does, and what each pair does beyond its two.

Notation of Box, Hunter and Hunter, Statistics for Experimenters (2nd ed., chapter 5): each technique is at −1
(left out) or +1 (applied), an effect is the mean at +1 less the mean at −1, averaged over all settings of the others.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from studylib.tree import names
from studylib.tree import table as tree_table

HELP, HURT, UNKNOWN = "raises", "lowers", "cannot tell"
MANY = 1000  # seeds beyond which nobody asks how many would decide


def contrasts(stages: Sequence[str], nodes: Sequence[str]) -> pd.DataFrame:
    """Weights (effect × node): an effect is the weighted sum of the nodes' values.

    Rows are the techniques (main effects) and their pairs, named ``a`` and ``a × b``. The interaction of a and b is
    half the difference between a's effect with b and a's effect without: 0 where the two do not care for each other.

    Raises:
        ValueError: there is no technique, or ``nodes`` are not exactly the combinations of ``stages``.
    """
    if not stages:
        raise ValueError("stages: expected at least one technique to have an effect")
    if sorted(nodes) != sorted(names.nodes(stages)):
        raise ValueError(f"nodes {list(nodes)}: expected every combination of {', '.join(stages)}")
    parts = [names.part(stage) for stage in stages]
    signs = {s: np.array([1.0 if s in node.split("-")[1:] else -1.0 for node in nodes]) for s in parts}
    rows = {s: sign for s, sign in signs.items()}
    rows |= {f"{a} × {b}": signs[a] * signs[b] for a, b in itertools.combinations(parts, 2)}
    return pd.DataFrame(rows, index=list(nodes)).T / (len(nodes) / 2)


def over_seeds(table: pd.DataFrame, stages: Sequence[str], column: str, log: bool = False) -> pd.DataFrame:
    """Effects on ``column`` in each seed (effect × seed); with ``log`` on its base-2 logarithm: 1 is a doubling.

    Args:
        table: rows of :func:`studylib.tree.table.read`.
    """
    values = table.pivot(index="node", columns="seed", values=column)
    weights = contrasts(stages, list(values.index))
    return weights @ (np.log2(values) if log else values)


def bootstrap(
    values: dict[str, np.ndarray], stages: Sequence[str], draws: int = 1000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """Effects on a mean over test images, with the interval that another draw of such images would give.

    The images are drawn with replacement, the same for every node and seed (Efron and Tibshirani 1993, chapter 13).

    Args:
        values: node → (seeds, images), such as 1 where an image was classified rightly.

    Returns:
        One row an effect: effect, low, high.
    """
    weights = contrasts(stages, list(values))
    per_image = np.tensordot(weights.to_numpy(), np.stack([v.mean(0) for v in values.values()]), axes=1)
    count = per_image.shape[1]
    rng, means = np.random.default_rng(seed), []
    for _ in range(draws):
        means.append(per_image @ (np.bincount(rng.integers(count, size=count), minlength=count) / count))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(np.array(means), [tail, 100 - tail], axis=0)
    return pd.DataFrame({"effect": per_image.mean(1), "low": low, "high": high}, index=weights.index)


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


def effects(table: pd.DataFrame, images: dict[str, np.ndarray] | None, stages: Sequence[str], column: str, log=False):
    """Each effect on ``column``: mean, interval over seeds, interval over images (if given), and the verdict of both.

    Args:
        table: rows of :func:`studylib.tree.table.read`.
        images: node → (seeds, images), whose mean over images is ``column``; None where that has no meaning (bytes).
    """
    by_seed = over_seeds(table, stages, column, log)
    sampled = bootstrap({node: images[node] for node in tree_table.order(table)}, stages) if images else None
    rows = []
    for name, values in by_seed.iterrows():
        over_seed = t_interval(values.to_numpy())
        over_images = tuple(sampled.loc[name, ["low", "high"]]) if images else (float("nan"),) * 2
        certain = judge(over_seed, over_images) if len(values) > 1 else UNKNOWN  # one seed is no evidence of an effect
        rows.append(
            {
                "measure": f"log2 {column}" if log else column,
                "effect": name,
                "mean": values.mean(),
                "seed_low": over_seed[0],
                "seed_high": over_seed[1],
                "image_low": over_images[0],
                "image_high": over_images[1],
                "seeds": len(values),
                "verdict": certain,
            }
        )
    return pd.DataFrame(rows)


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
