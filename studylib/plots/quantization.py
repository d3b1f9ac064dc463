"""Figures of chapter 5: accuracy and bytes by bits."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from studylib import report


def draw_bits(rows: pd.DataFrame) -> Figure:
    """Test accuracy against bits a weight, and against bytes of the file: a colour a network, a line a way of rounding.

    Args:
        rows: network, rounding ("none" for the float model), bits, accuracy, bytes.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), sharey=True, layout="constrained")
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
    report.kilobyte_axis(axes[1], "file")
    handles = [Line2D([], [], color=colour, linewidth=3, label=network) for network, colour in colours.items()]
    handles += [Line2D([], [], color="0.3", marker=way[0], linestyle=way[1:], label=how) for how, way in ways.items()]
    handles.append(Line2D([], [], color="0.3", marker="*", linestyle="-", linewidth=0.8, label="floats"))
    figure.legend(handles=handles, loc="outside right center", fontsize=7.5, frameon=False)
    return figure
