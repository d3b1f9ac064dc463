"""Parts of the difference between chapter 14's controller and narrow networks: tables and sentences.

From the controller's networks to narrow ones four things change. One network stands between each and the next, so that
the parts add up. It trains from scratch, like narrow networks.
"""

import pandas as pd

from studylib.experiments.controller import EVEN, GUIDED, WIDTHS, WIDTHS_ITS
from studylib.experiments.controller_rows import PARTS
from studylib.experiments.controller_told import interval, told_by
from studylib.results import statistics

CHANGES = {  # (network, the next) → in what they differ
    (GUIDED, WIDTHS_ITS): "how it is trained",
    (WIDTHS_ITS, WIDTHS): "images kept for the controller",
    (WIDTHS, EVEN): "which widths it chooses",
    (EVEN, "narrow"): "rate of training that narrow networks tune",
    (GUIDED, "narrow"): "all four",
}


def _points(table: pd.DataFrame, column: str = "accuracy") -> pd.DataFrame:
    """Accuracy in points, seed × (budget, way)."""
    return 100 * table.pivot(index="seed", columns=["budget", "way"], values=column).astype(float)


def parts(table: pd.DataFrame) -> pd.DataFrame:
    """A row per change, for a reader: points that the first is more accurate, at each budget and their mean.

    Intervals are Student's over seeds, bold where they have one sign.
    """
    if table.empty:  # none was asked for
        return pd.DataFrame(columns=["what differs", "between", "mean"])
    accuracy, budgets = _points(table), list(dict.fromkeys(table["budget"]))
    rows = []
    for (first, second), name in CHANGES.items():
        gains = {budget: accuracy[budget, first] - accuracy[budget, second] for budget in budgets}
        row = {"what differs": name, "between": f"{first} – {second}"}
        row |= {f"at {100 * budget:g} %": told_by(gain.to_numpy()) for budget, gain in gains.items()}
        rows.append(row | {"mean": told_by(pd.DataFrame(gains).mean(axis=1).to_numpy())})
    return pd.DataFrame(rows)


def tuning(table: pd.DataFrame) -> pd.DataFrame:
    """What fine-tuning adds to each network but the tuned narrow one, means over budgets, for a reader.

    Beside it, by how much it adds more to the controller's.
    """
    if table.empty:
        return pd.DataFrame(columns=["network", "as trained %", "fine-tuning adds, points"])
    before, after = (_points(table, column) for column in ("accuracy", "tuned"))
    adds = {way: (after - before).xs(way, axis=1, level="way").mean(axis=1) for way in PARTS if way != "narrow"}
    return pd.DataFrame(
        {
            "network": way,
            "as trained %": f"{before.xs(way, axis=1, level='way').mean(axis=None):.2f}",
            "fine-tuning adds, points": told_by(gain.to_numpy()),
            "more to the controller's, points": "–" if way == GUIDED else told_by((adds[GUIDED] - gain).to_numpy()),
        }
        for way, gain in adds.items()
    )


def told(table: pd.DataFrame) -> str:
    """Which parts have an interval of one sign, and what fine-tuning adds beside a network as wide, in sentences."""
    if table.empty:
        return ""
    accuracy = _points(table)
    means = {way: accuracy.xs(way, axis=1, level="way").mean(axis=1) for way in PARTS}
    said = []
    for (first, second), name in CHANGES.items():
        gain = (means[first] - means[second]).to_numpy()
        low, high = statistics.t_interval(gain)
        if statistics.judge((low, high)) != statistics.UNKNOWN and (first, second) != (GUIDED, "narrow"):
            said.append(f"{name} ({interval(gain.mean(), low, high)} points)")
    before, after = (_points(table, column) for column in ("accuracy", "tuned"))
    adds = (after - before).T.groupby(level="way").mean().T
    more = (adds[GUIDED] - adds[WIDTHS_ITS]).to_numpy()
    return (
        f"Between it and narrow networks, parts of one sign: {', '.join(said) or 'none'}. "
        f"Fine-tuning adds {interval(more.mean(), *statistics.t_interval(more))} points more to it "
        f"than to a network of its widths and images that trained from scratch."
    )
