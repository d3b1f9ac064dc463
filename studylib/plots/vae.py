"""Figures of chapter 11: bits per dimension against bytes, and images to look at."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from studylib.plots.axes import kilobyte_axis

MARKS = {"float32": "o", "int8": "s"}


def draw_bits(nodes: pd.DataFrame, dense: pd.DataFrame) -> Figure:
    """Test bits per dimension against the file's size: the sixteen combinations, and narrower dense networks.

    Bars are the interval of the difference from the whole network. Low and left is better.

    Args:
        nodes, dense: of :func:`studylib.experiments.vae.summary`, by node, and by width and form.
    """
    figure, axis = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for form, rows in dense.sort_values("bytes").groupby("form", sort=False):
        style = {"color": "0.6", "marker": MARKS[form], "linewidth": 1, "markersize": 5, "zorder": 0}
        axis.plot(rows["bytes"], rows["test_bits"], label=f"narrower, {form}", **style)
    for student in (False, True):
        for form in MARKS:
            names = nodes["node"].str
            rows = nodes[(names.contains("-kd") == student) & (names.endswith("-int8") == (form == "int8"))]
            error = [rows["costs"] - rows["costs_low"], rows["costs_high"] - rows["costs"]]
            style = {"color": "C0" if student else "C1", "linestyle": "none", "markersize": 6, "marker": MARKS[form]}
            label = f"{'student, distilled' if student else 'whole width'}, {form}"
            style |= {"capsize": 2, "elinewidth": 0.7, "capthick": 0.7}
            axis.errorbar(rows["bytes"], rows["test_bits"], np.nan_to_num(error), label=label, **style)
    for row in nodes.itertuples():
        label = row.node.removeprefix("teacher-").removeprefix("teacher") or "whole"
        where = {"xytext": (3, 3), "textcoords": "offset points", "rotation": 40, "rotation_mode": "anchor"}
        axis.annotate(label, (row.bytes, row.test_bits), size=6, **where)
    axis.set(ylabel="bits per dimension, test images")
    kilobyte_axis(axis, "file")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure


def draw_images(shown: pd.DataFrame) -> Figure:
    """Test images, what each network makes of them, and what it draws itself: dense first, smallest last.

    Args:
        shown: rows of :func:`studylib.experiments.vae.shown`.
    """
    lines = list(shown.groupby(["kind", "network"], sort=False))
    lines.sort(key=lambda line: ["image", "reconstruction", "sample"].index(line[0][0]))  # else as they came
    count, side = shown["number"].max() + 1, int(len(shown["pixels"].iloc[0]) ** 0.5)
    size = (0.6 * count + 2.2, 0.62 * len(lines))
    figure, grid = plt.subplots(len(lines), count, figsize=size, layout="constrained", squeeze=False)
    for axes, ((kind, network), rows) in zip(grid, lines, strict=True):
        for axis, pixels in zip(axes, rows.sort_values("number")["pixels"], strict=True):
            axis.imshow(np.reshape(pixels, (side, side)), cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        said = {"": "test images"}.get(network, f"{network.removeprefix('teacher-')}, {kind}s")
        axes[0].set_ylabel(said, rotation=0, ha="right", va="center", size=8)
    return figure
