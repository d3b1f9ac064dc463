"""Figures of chapter 3: accuracy by round and against the weights that remain, survivors, classes."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from studylib.plots.axes import remaining_axis

WAYS = {  # to prune (studylib.techniques.prune.METHODS), as legends have them
    "pretrained": "weights back to trained",
    "initial": "weights back to initial",
    "learning_rate": "weights kept",
    "one_shot": "one shot",
    "random": "random positions",
}


def draw_pruning(rows: pd.DataFrame, rounds: pd.DataFrame) -> Figure:
    """Validation accuracy against the weights that remain: mean and deviation over seeds of each way to prune.

    Args:
        rows: of method, sparsity and accuracy (0…1 both), one per seed.
        rounds: of :func:`draw_rounds`; round 0 is the network before pruning, the dashed line.
    """
    shown = rows.assign(remain=100 * (1 - rows["sparsity"]), percent=100 * rows["accuracy"])
    figure, axis = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    look = {"hue": "method", "style": "method", "markers": True, "dashes": False, "errorbar": "sd"}
    sns.lineplot(shown.replace({"method": WAYS}), x="remain", y="percent", ax=axis, **look)
    axis.axhline(100 * rounds["after"][0], color="0.4", linestyle="--", linewidth=1)
    axis.set(ylabel="validation accuracy (%)")
    remaining_axis(axis, shown["remain"])
    return figure


def draw_rounds(rows: pd.DataFrame, tolerance: float) -> Figure:
    """Validation accuracy of each round, before and after recovery, and the parent's less ``tolerance`` (0…1).

    Args:
        rows: of round, sparsity, before, after (0…1), round 0 the parent.
    """
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    zeros = 100 * rows["sparsity"]
    axis.plot(zeros, 100 * rows["before"], "o:", markerfacecolor="white", label="pruned and reset")
    axis.plot(zeros, 100 * rows["after"], "s-", label="recovered")
    axis.axhline(100 * (rows["after"][0] - tolerance), color="0.4", linestyle="--", label="parent less tolerance")
    axis.set(xlabel="zeros among the weights (%)", ylabel="validation accuracy (%)")
    axis.legend()
    return figure


def draw_survivors(rows: pd.DataFrame) -> Figure:
    """Share of the weights that live, layer (down) by sparsity (across); white where none is left.

    Args:
        rows: of layer, sparsity, density (0…1).
    """
    grid = 100 * rows.pivot(index="layer", columns="sparsity", values="density").loc[rows["layer"].unique()]
    grid.columns = [f"{100 * s:g}" for s in grid.columns]
    figure, axis = plt.subplots(figsize=(6.5, 0.2 * len(grid) + 1.3), layout="constrained")
    look = {"norm": LogNorm(vmin=0.1, vmax=100), "cmap": "viridis", "cbar_kws": {"label": "weights that live (%)"}}
    sns.heatmap(grid.clip(lower=0.1), mask=grid == 0, ax=axis, **look)
    axis.set(xlabel="zeros over all layers (%)", ylabel="")
    axis.tick_params(axis="y", labelsize=6)
    return figure


def draw_classes(rows: pd.DataFrame) -> Figure:
    """Change of test accuracy, class (down) by sparsity (across).

    Args:
        rows: of class, sparsity, points.
    """
    grid = rows.pivot(index="class", columns="sparsity", values="points").loc[rows["class"].unique()]
    grid.columns = [f"{100 * s:g}" for s in grid.columns]
    figure, axis = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
    look = {"cmap": "PuOr", "center": 0, "annot": True, "fmt": ".0f", "annot_kws": {"size": 7}}
    sns.heatmap(grid, cbar_kws={"label": "change of test accuracy (points)"}, ax=axis, **look)
    axis.set(xlabel="zeros over all layers (%)")
    return figure
