"""Figures of chapter 12: the gap against steps and bytes, features that are left, growth with p."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from studylib.plots.axes import legend_below

COLOURS = {
    "working sets, screening": "C0",
    "working sets alone": "C9",
    "steps, screening": "C1",
    "steps alone": "0.5",
}


def draw_gaps(rows: pd.DataFrame) -> Figure:
    """Duality gap against bytes a worker has sent, a panel per problem at its smallest λ, a line per way.

    Args:
        rows: of problem, share, way, sent (bytes), gap, goal.
    """
    return _panels(rows, "sent", "gap", "sent by a worker (bytes)", "duality gap", goal=True)


def draw_features(rows: pd.DataFrame) -> Figure:
    """Features left against the gap that is reached, a panel per problem at its smallest λ, a line per way.

    Args:
        rows: of problem, share, way, gap, features.
    """
    rows = rows[rows["way"].isin(["working sets, screening", "steps, screening"])]
    figure = _panels(rows, "gap", "features", "duality gap", "features left", goal=False)
    for axis in figure.axes:
        axis.invert_xaxis()
    return figure


def _panels(rows: pd.DataFrame, x: str, y: str, xlabel: str, ylabel: str, goal: bool) -> Figure:
    names = list(dict.fromkeys(rows["problem"]))
    size = (2.5 * len(names) + 1, 3.2)
    figure, axes = plt.subplots(1, len(names), figsize=size, layout="constrained", squeeze=False, sharey=y != "gap")
    handles = {}
    for name, axis in zip(names, axes.flat, strict=True):
        part = rows[rows["problem"] == name]
        part = part[part["share"] == part["share"].min()]
        for way, line in part.groupby("way", sort=False):
            line = line[(line[x] > 0) & (line[y] > 0)]
            (handles[way],) = axis.plot(line[x], line[y], ".-", ms=4, lw=1.2, color=COLOURS[way])
        if goal:
            axis.axhline(part["goal"].iloc[0], color="0.8", lw=1, zorder=0)
        axis.set(xscale="log", yscale="log", title=f"{name}, {part['share'].iloc[0]:g} λ_max", xlabel=xlabel)
    axes.flat[0].set_ylabel(ylabel)
    legend_below(figure, list(handles.values()), list(handles))
    return figure


def draw_growth(rows: pd.DataFrame) -> Figure:
    """Bytes of a worker and seconds against p of the sparse problem, a line per way.

    Args:
        rows: of columns (p), way, sent and setup (bytes), seconds.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    handles = {}
    for way, line in rows.groupby("way", sort=False):
        (handles[way],) = axes[0].plot(line["columns"], (line["sent"] + line["setup"]) / 1e6, "o-", color=COLOURS[way])
        axes[1].plot(line["columns"], line["seconds"], "o-", color=COLOURS[way])
    for axis, label in zip(axes, ("sent by a worker (MB)", "seconds"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="features p", ylabel=label)
    legend_below(figure, list(handles.values()), list(handles))
    return figure
