"""Figures of chapter 6: ways to train, by sparsity and by bytes."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studylib import factorial, report


def ways_look(ways: list[str]) -> dict:
    """What seaborn draws the ways to train with, the same in every figure: a colour and a marker each."""
    palette = [*sns.color_palette("tab10"), (0.1, 0.1, 0.1)]
    return {"hue": "way", "hue_order": ways, "palette": palette[: len(ways)], "style": "way", "style_order": ways}


def draw_ways_by_sparsity(rows: pd.DataFrame, ways: list[str], stages: list[str]) -> Figure:
    """Test accuracy against the weights that remain, a panel a stage: mean and deviation over seeds of each way.

    Args:
        rows: of way, stage, sparsity and test_accuracy (0…1 both), one a seed.
        ways: all of them, in order.
        stages: the panels, from left to right.
    """
    shown = rows.assign(remain=100 * (1 - rows["sparsity"]), percent=100 * rows["test_accuracy"])
    figure, axes = plt.subplots(1, len(stages), figsize=(10, 4), sharey=True, layout="constrained")
    bars = {"errorbar": "sd", "err_style": "bars", "markers": True, "dashes": False}
    for axis, stage in zip(axes, stages, strict=True):
        part = shown[shown["stage"] == stage]
        sns.lineplot(part, x="remain", y="percent", ax=axis, legend=axis is axes[-1], **bars, **ways_look(ways))
        axis.set(ylabel="test accuracy (%)", title=stage)
        report.remaining_axis(axis, shown["remain"])
    sns.move_legend(axes[-1], "center left", bbox_to_anchor=(1, 0.5), title=None, frameon=False, fontsize=8)
    return figure


def draw_ways(rows: pd.DataFrame, ways: list[str]) -> tuple[Figure, pd.DataFrame]:
    """Test accuracy against bytes of the file, a panel a sparsity: mean and deviation over seeds of each way to train.

    Ringed are those that no other beats on both, whatever its sparsity.

    Args:
        rows: of way, sparsity, bytes, test_accuracy (0…1), one a seed.
        ways: all of them, in order.

    Returns:
        The figure, and rows of way, sparsity, bytes, test_accuracy, test_accuracy_sd (NaN of one seed), front.
    """
    groups = rows.dropna(subset="bytes").groupby(["way", "sparsity"], sort=False)
    mean = groups[["bytes", "test_accuracy"]].mean().reset_index()
    mean["test_accuracy_sd"] = groups["test_accuracy"].std().to_numpy()
    mean["front"] = factorial.pareto(mean, "bytes", "test_accuracy")
    shown = mean.assign(kB=mean["bytes"] / 1000, percent=100 * mean["test_accuracy"])
    sparsities = sorted(mean["sparsity"].unique(), reverse=True)
    size = {"figsize": (3 * len(sparsities) + 2, 4), "sharey": True, "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(1, len(sparsities), **size)
    look = ways_look(ways)
    for axis, sparsity in zip(axes[0], sparsities, strict=True):
        part = shown[shown["sparsity"] == sparsity]
        bars = {"yerr": 100 * part["test_accuracy_sd"].fillna(0), "fmt": "none", "ecolor": "0.6", "elinewidth": 1}
        axis.errorbar(part["kB"], part["percent"], zorder=1, **bars)
        sns.scatterplot(part, x="kB", y="percent", s=40, alpha=0.85, ax=axis, legend=axis is axes[0][-1], **look)
        ring = {"s": 130, "facecolor": "none", "edgecolor": "0.1", "linewidth": 1, "zorder": 3}
        axis.scatter(part["kB"][part["front"]], part["percent"][part["front"]], label="not beaten", **ring)
        axis.set(xlabel="", ylabel="test accuracy (%)", title=f"{100 * sparsity:g} % zeros")
        axis.margins(x=0.15)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    figure.supxlabel("file (kB of 1,000 bytes)")
    axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure, mean
