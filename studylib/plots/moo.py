"""Figures of chapter 6: ways to train, by sparsity, along training and by bytes."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studylib.plots.axes import legend_below, plain_log_y, remaining_axis

ALONG = {"value_cross_entropy": "cross-entropy (nats)", "value_l1": "‖w‖₁", "cosine_l1": "cosine of the gradients"}


def ways_look(rows: pd.DataFrame) -> dict:
    """A colour and a marker for each way to train of ``rows``, for seaborn, the same in every figure."""
    ways, palette = list(rows["way"].unique()), [*sns.color_palette("tab10"), (0.1, 0.1, 0.1)]
    return {"hue": "way", "hue_order": ways, "palette": palette[: len(ways)], "style": "way", "style_order": ways}


def draw_ways_by_sparsity(rows: pd.DataFrame) -> Figure:
    """Test accuracy against the weights that remain, a panel per stage: mean and deviation over seeds of each way.

    Args:
        rows: of way, stage, sparsity and test_accuracy (0…1 both), one per seed; all ways, in order.
    """
    shown = rows.assign(remain=100 * (1 - rows["sparsity"]), percent=100 * rows["test_accuracy"])
    stages, look = list(rows["stage"].unique()), ways_look(rows)
    size = {"figsize": (8, 4.4), "sharey": True, "layout": "constrained", "squeeze": False}
    figure, axes = plt.subplots(1, len(stages), **size)
    bars = {"errorbar": "sd", "err_style": "bars", "markers": True, "dashes": False}
    for axis, stage in zip(axes[0], stages, strict=True):
        part = shown[shown["stage"] == stage]
        sns.lineplot(part, x="remain", y="percent", ax=axis, legend=axis is axes[0][-1], **bars, **look)
        axis.set(ylabel="test accuracy (%)", title=stage)
        remaining_axis(axis, shown["remain"])
    _legend_below(axes[0][-1])
    return figure


def draw_training(rows: pd.DataFrame, chosen: pd.DataFrame) -> Figure:
    """Both losses and the cosine of their gradients, epoch by epoch: mean over seeds of each way.

    Args:
        rows: of way, epoch and the columns of :data:`ALONG`, one per seed; without the ways that did not stay finite.
        chosen: of :func:`draw_ways_by_sparsity`, for the colours.
    """
    figure, axes = plt.subplots(1, 3, figsize=(8.5, 3.7), layout="constrained")
    look = {name: value for name, value in ways_look(chosen).items() if not name.startswith("style")}
    for axis, (column, name) in zip(axes, ALONG.items(), strict=True):
        lines = {"errorbar": None, "linewidth": 1.2, "legend": axis is axes[2], **look}
        sns.lineplot(rows, x="epoch", y=column, ax=axis, **lines)
        axis.set(xlabel="epoch", ylabel=name)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if "cosine" not in column:
            plain_log_y(axis)
    _legend_below(axes[2])
    return figure


def draw_ways(rows: pd.DataFrame, chosen: pd.DataFrame) -> Figure:
    """Test accuracy against bytes of the file, a panel per sparsity: mean and standard deviation over seeds.

    Args:
        rows: of way, sparsity, bytes, test_accuracy (0…1), test_accuracy_sd (NaN of one seed), front: ringed. Without
            the ways that did not stay finite.
        chosen: of :func:`draw_ways_by_sparsity`, for the colours.
    """
    shown = rows.assign(kB=rows["bytes"] / 1000, percent=100 * rows["test_accuracy"])
    sparsities = sorted(rows["sparsity"].unique(), reverse=True)
    columns = min(3, len(sparsities))
    high = math.ceil(len(sparsities) / columns)
    figure, axes = plt.subplots(high, columns, figsize=(8.5, 2.6 * high + 1.2), sharey=True, layout="constrained")
    look, axes = ways_look(chosen), [*np.atleast_1d(axes).flat]
    for axis in axes[len(sparsities) :]:
        axis.remove()
    for axis, sparsity in zip(axes, sparsities, strict=False):
        part = shown[shown["sparsity"] == sparsity]
        bars = {"yerr": 100 * part["test_accuracy_sd"].fillna(0), "fmt": "none", "ecolor": "0.6", "elinewidth": 1}
        axis.errorbar(part["kB"], part["percent"], zorder=1, **bars)
        sns.scatterplot(part, x="kB", y="percent", s=40, alpha=0.85, ax=axis, legend=axis is axes[0], **look)
        ring = {"s": 130, "facecolor": "none", "edgecolor": "0.1", "linewidth": 1, "zorder": 3}
        axis.scatter(part["kB"][part["front"]], part["percent"][part["front"]], label="not beaten", **ring)
        axis.set(xlabel="file (kB of 1,000 bytes)", ylabel="test accuracy (%)", title=f"{100 * sparsity:g} % zeros")
        axis.margins(x=0.15)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    _legend_below(axes[0])
    return figure


def _legend_below(axis: plt.Axes) -> None:
    """One legend for the figure, of what ``axis`` shows, in place of the legend that seaborn put into the panel."""
    legend_below(axis.figure, *axis.get_legend_handles_labels())
    if axis.legend_:
        axis.legend_.remove()
