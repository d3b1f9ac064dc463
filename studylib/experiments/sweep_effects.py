"""Chapter 7: the tree as a 2ᵏ factorial design: effects of techniques and interactions of pairs.

Notation of Box, Hunter and Hunter, Statistics for Experimenters (2nd edition, chapter 5). Each technique is at −1
(left out) or +1 (applied). An effect is the mean at +1 less the mean at −1, over all settings of the others.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from studylib.results import tables
from studylib.results.statistics import UNKNOWN, judge, t_interval
from studylib.tree import names
from studylib.tree.table import order


def contrasts(stages: Sequence[str], nodes: Sequence[str]) -> pd.DataFrame:
    """Weights (effect × node): an effect is the weighted sum of the nodes' values.

    Rows are the techniques (main effects) and their pairs, named ``a`` and ``a × b``. The interaction of a and b is
    half the difference between a's effect with b and a's effect without. It is 0 where their effects add.

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


def effects(table: pd.DataFrame, images: dict[str, np.ndarray] | None, stages: Sequence[str], column: str, log=False):
    """Each effect on ``column``: mean, interval over seeds, interval over images (if given), and the verdict of both.

    Args:
        table: rows of :func:`studylib.tree.table.read`.
        images: node → (seeds, images), with ``column`` as mean over images; None for columns without images (bytes).
    """
    by_seed = over_seeds(table, stages, column, log)
    sampled = bootstrap({node: images[node] for node in order(table)}, stages) if images else None
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


def effects_table(effects: pd.DataFrame) -> str:
    """Rows of :func:`effects` in Markdown, a table a measure."""
    if effects.empty:
        return "No technique was applied: there is no effect."
    units = {"test_accuracy": ("points", 100, 2), "test_nll": ("nats", 1, 4), "log2 bytes_file": ("doublings", 1, 2)}
    shown = []
    for measure, rows in effects.groupby("measure", sort=False):
        unit, factor, digits = units.get(measure, ("", 1, 3))
        name = measure.replace("test_", "").replace("log2 bytes_file", "bytes")
        columns = {f"effect on {name}": rows["effect"].map(tables.effect_name)}
        columns[unit or "value"] = (factor * rows["mean"]).map(f"{{:+.{digits}f}}".format)
        columns["over seeds"] = _intervals(rows, "seed", factor, digits)
        if rows["image_low"].notna().any():
            columns["over images"] = _intervals(rows, "image", factor, digits)
        shown.append(tables.markdown_rows(pd.DataFrame(columns | {"verdict": rows["verdict"]})))
    return "\n\n".join(shown)


def _intervals(rows: pd.DataFrame, over: str, factor: int, digits: int) -> list[str]:
    """``factor`` times the columns ``over``_low and ``over``_high in words, a dash where there is none."""
    ends = zip(factor * rows[f"{over}_low"], factor * rows[f"{over}_high"], strict=True)
    return ["–" if math.isnan(low) else f"{low:+.{digits}f} to {high:+.{digits}f}" for low, high in ends]
