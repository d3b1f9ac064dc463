"""Figures that chapters 10 and 11 share: bits against bytes, and what common descent saves."""

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from studylib.plots.axes import kilobyte_axis

MARKS = {"float32": "o", "int8": "s"}
THICK = {"capsize": 2, "elinewidth": 0.7, "capthick": 0.7}
BESIDE = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False, "fontsize": 8}  # of the legend


def combinations(axis: Axes, nodes: pd.DataFrame, dense: pd.DataFrame, label: Callable[[str], str]) -> None:
    """Draws test bits against the file's size: combinations, each with its name, and narrower dense networks.

    Bars are the interval of the difference from the whole network.

    Args:
        nodes, dense: of :func:`studylib.experiments.generative_told.summary`, by node, and by width and form.
        label: node → what stands at its point.
    """
    for form, rows in dense.sort_values("bytes").groupby("form", sort=False):
        style = {"color": "0.6", "marker": MARKS[form], "linewidth": 1, "markersize": 5, "zorder": 0}
        axis.plot(rows["bytes"], rows["test_bits"], label=f"narrower, {form}", **style)
    for student in (False, True):
        for form in MARKS:
            names = nodes["node"].str
            rows = nodes[(names.contains("-kd") == student) & (names.endswith("-int8") == (form == "int8"))]
            error = [rows["costs"] - rows["costs_low"], rows["costs_high"] - rows["costs"]]
            style = {"color": "C0" if student else "C1", "linestyle": "none", "markersize": 6, "marker": MARKS[form]}
            said = f"{'student, distilled' if student else 'whole width'}, {form}"
            axis.errorbar(rows["bytes"], rows["test_bits"], np.nan_to_num(error), label=said, **style, **THICK)
    for row in nodes.itertuples():
        where = {"xytext": (3, 3), "textcoords": "offset points", "rotation": 40, "rotation_mode": "anchor"}
        axis.annotate(label(row.node), (row.bytes, row.test_bits), size=6, **where)


def finish(figure: Figure, axis: Axes, bits: str) -> Figure:
    """Adds the axes' names and the legend; ``bits`` are what is drawn upward."""
    axis.set(ylabel=bits)
    kilobyte_axis(axis, "file")
    axis.legend(**BESIDE)
    return figure


def saved(against: pd.DataFrame, lines: Sequence, of: Callable, names: Sequence[str], bit: str) -> Figure:
    """Bits that PCD saves over each weighted sum, with their 95 % intervals; a colour a sum.

    Args:
        against: rows with rival, saved, low and high.
        lines: what each line is of, as ``of`` gives it for a row; ``names`` are theirs for people.
        bit: its name, such as "bit per character".
    """
    figure, axis = plt.subplots(figsize=(7.5, 1.25 + 0.42 * len(lines)), layout="constrained")
    axis.axvline(0, color="0.6", lw=1)
    for i, (rival, rows) in enumerate(against.groupby("rival", sort=False)):
        at = [lines.index(of(row)) + 0.24 * (i - 0.5) for row in rows.itertuples()]
        half = 1e3 * np.nan_to_num(rows["high"] - rows["saved"])
        axis.errorbar(1e3 * rows["saved"], at, xerr=half, fmt="os"[i], ms=4, color=f"C{i}", label=f"over the {rival}")
    axis.set(xlabel=f"PCD saves (thousandths of a {bit})", yticks=range(len(lines)), yticklabels=names)
    axis.invert_yaxis()
    axis.legend(**BESIDE)
    return figure
