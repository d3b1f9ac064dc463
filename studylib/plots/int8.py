"""Figures of chapter 5: error by layer, kinds of int8, pruned against dense, accuracy and bytes by bits."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from studylib.plots.axes import kilobyte_axis, legend_below

UNITS = {  # measure of draw_moved → as its axis says it
    "relative weight error": "relative weight error",
    "KL": "KL (nats)",
    "loss": "change of the loss (nats)",
    "flips": "share of labels flipped",
}


def draw_errors(rows: pd.DataFrame) -> Figure:
    """Layer by layer from input (top) to output: rounding error of the weights, and noise of what it puts out.

    Args:
        rows: layer, worst and mean (steps), static, dynamic and weight-only (dB; NaN where there is no noise).
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.2 * len(rows) + 1.4), sharey=True, layout="constrained")
    axes[0].barh(rows["layer"], rows["worst"], color="0.8", label="worst weight")
    axes[0].barh(rows["layer"], rows["mean"], label="mean weight")
    axes[0].axvline(0.5, color="0.3", linestyle="--", label="half a step")
    axes[0].invert_yaxis()
    axes[0].set(xlabel="weight error (steps)")
    for kind, mark in zip(("static", "dynamic", "weight-only"), "osx", strict=True):
        axes[1].plot(rows[kind], rows["layer"], mark + "-", label=kind, linewidth=0.8, markerfacecolor="none")
    axes[1].set(xlabel="signal to noise of the output (dB)")
    axes[0].tick_params(axis="y", labelsize=6)
    for axis in axes:
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=7)
    return figure


def draw_kinds(rows: pd.DataFrame) -> Figure:
    """Validation NLL, bytes of the parameters and latency of the float network and of each kind of int8.

    Args:
        rows: kind, nll (nats), bytes, ms.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
    shown = rows.assign(kilobytes=rows["bytes"] / 1000)
    labels = {"nll": "validation NLL (nats)", "kilobytes": "parameters (1,000 bytes)", "ms": "ms a batch"}
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        axis.bar(shown["kind"], shown[column], color=sns.color_palette("colorblind")[: len(shown)])
        axis.set(ylabel=label)
        axis.tick_params(axis="x", labelrotation=30)
    return figure


def draw_moved(rows: pd.DataFrame) -> Figure:
    """How far int8 moves the dense and the pruned network: a panel a measure, means and intervals over images.

    Args:
        rows: network, measure (of :data:`UNITS`), mean, low, high (NaN where there is no interval).
    """
    figure, axes = plt.subplots(2, 2, figsize=(7.5, 4.6), layout="constrained")
    for axis, (measure, unit) in zip(axes.flat, UNITS.items(), strict=True):
        part = rows[rows["measure"] == measure]
        certain = part["low"].notna().all()
        reach = [part["mean"] - part["low"], part["high"] - part["mean"]] if certain else None
        names = part["network"].str.replace(", where ", ",\nwhere ")
        axis.errorbar(names, part["mean"], yerr=reach, fmt="o", capsize=4)
        axis.axhline(0, color="0.4", linewidth=1)
        axis.set(ylabel=unit, xlim=(-0.5, len(part) - 0.5))
    return figure


def draw_bits(rows: pd.DataFrame) -> Figure:
    """Test accuracy against bits per weight and against bytes of the file: colour by network, line by rounding.

    Args:
        rows: network, rounding ("none" for the float model), bits, accuracy, bytes.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.9), sharey=True, layout="constrained")
    colours = dict(zip(rows["network"].unique(), sns.color_palette("colorblind"), strict=False))
    ways = dict(zip(rows[rows["rounding"] != "none"]["rounding"].unique(), ("o:", "^--", "s-"), strict=False))
    for (network, how), part in rows.groupby(["network", "rounding"], sort=False):
        if how == "none":
            axes[0].axhline(100 * part["accuracy"].iloc[0], color=colours[network], linewidth=0.8)
            axes[1].plot(part["bytes"], 100 * part["accuracy"], "*", color=colours[network], markersize=9)
            continue
        part = part.sort_values("bits")
        for axis, x in zip(axes, ("bits", "bytes"), strict=True):
            look = {"color": colours[network], "markersize": 4, "linewidth": 1}
            axis.plot(part[x], 100 * part["accuracy"], ways[how], **look)
    axes[0].set(xlabel="bits a weight", ylabel="test accuracy (%)", xticks=sorted(set(rows["bits"]) - {32}))
    kilobyte_axis(axes[1], "file")
    handles = [Line2D([], [], color=colour, linewidth=3, label=network) for network, colour in colours.items()]
    handles += [Line2D([], [], color="0.3", marker=way[0], linestyle=way[1:], label=how) for how, way in ways.items()]
    handles.append(Line2D([], [], color="0.3", marker="*", linestyle="-", linewidth=0.8, label="floats"))
    legend_below(figure, handles, [handle.get_label() for handle in handles], columns=len(handles))
    return figure
