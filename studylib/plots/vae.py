"""Figures of chapter 11: bits per dimension against bytes, images to look at, what common descent saves."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from studylib.plots.axes import kilobyte_axis

BY_MARK = "distillation", "int8"  # which a point's colour and mark say
MARKS = {"float32": "o", "int8": "s"}


def draw_bits(nodes: pd.DataFrame, dense: pd.DataFrame, short: Callable[[str], str]) -> Figure:
    """Test bits per dimension against the file's size: the sixteen combinations, and narrower dense networks.

    Bars are the interval of the difference from the whole network. Low and left is better. Colour and mark say whether
    a point is distilled and int8, its label the rest.

    Args:
        nodes, dense: of :func:`studylib.experiments.vae_told.summary`, by node, and by width and form.
        short: node → its name for people.
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
        where = {"xytext": (3, 3), "textcoords": "offset points", "rotation": 40, "rotation_mode": "anchor"}
        parts = [part for part in short(row.node).split(" + ") if part not in BY_MARK]
        axis.annotate(" + ".join(parts), (row.bytes, row.test_bits), size=6, **where)
    axis.set(ylabel="bits per dimension, test images")
    kilobyte_axis(axis, "file")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure


def draw_images(shown: pd.DataFrame, short: Callable[[str], str]) -> Figure:
    """Test images, what each network makes of them, and what it draws itself: dense first, smallest last.

    Args:
        shown: rows of :func:`studylib.experiments.vae.shown`.
    """
    lines = list(shown.groupby(["kind", "network"], sort=False))
    lines.sort(key=lambda line: ["image", "reconstruction", "sample"].index(line[0][0]))  # else as they came
    count = shown["number"].max() + 1
    size = (0.6 * count + 2.2, 0.62 * len(lines))
    figure, grid = plt.subplots(len(lines), count, figsize=size, layout="constrained", squeeze=False)
    for axes, ((kind, network), rows) in zip(grid, lines, strict=True):
        for axis, row in zip(axes, rows.sort_values("number").itertuples(), strict=True):
            levels = np.array([int(digit, 16) for digit in row.pixels]).reshape(row.shape).transpose(1, 2, 0) / 15
            levels = levels[..., 0] if levels.shape[-1] == 1 else levels
            axis.imshow(levels, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        said = f"{short(network)},\n{kind}s" if network else "test images"
        axes[0].set_ylabel(said, rotation=0, ha="right", va="center", size=8)
    return figure


def draw_against(against: pd.DataFrame, names: dict[str, str]) -> Figure:
    """Bits per dimension that PCD saves over each weighted sum, with their 95 % intervals; a colour a sum.

    Args:
        against: rows of :func:`studylib.experiments.vae_objectives.against_sums`.
        names: objective → its name for people.
    """
    lines = list(dict.fromkeys(zip(against["objective"], against["stage"], strict=True)))
    figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.4 * len(lines)), layout="constrained")
    axis.axvline(0, color="0.6", lw=1)
    for i, (rival, rows) in enumerate(against.groupby("rival", sort=False)):
        at = [lines.index((r.objective, r.stage)) + 0.24 * (i - 0.5) for r in rows.itertuples()]
        half = 1e3 * np.nan_to_num(rows["high"] - rows["saved"])
        axis.errorbar(1e3 * rows["saved"], at, xerr=half, fmt="os"[i], ms=4, color=f"C{i}", label=f"over the {rival}")
    said = [f"{names[objective]}, {stage}" for objective, stage in lines]
    axis.set(xlabel="PCD saves (thousandths of a bit per dimension)", yticks=range(len(lines)), yticklabels=said)
    axis.invert_yaxis()
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure
