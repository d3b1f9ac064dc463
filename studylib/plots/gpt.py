"""Figures of chapter 10: bits per character against bytes, and what common descent saves."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from studylib.plots.axes import kilobyte_axis

MARKS = {"float32": "o", "int8": "s"}


def draw_bits(nodes: pd.DataFrame, dense: pd.DataFrame, ways: pd.DataFrame, short: Callable[[str], str]) -> Figure:
    """Test bits per character against the file's size: combinations, narrower networks, other ways to round.

    Bars are the interval of the difference from the whole network. Low and left is better.

    Args:
        nodes, dense: of :func:`studylib.experiments.gpt_told.summary`, by node, and by width and form.
        ways: rows of :func:`studylib.experiments.gpt.ways`.
        short: node → its name for people.
    """
    figure, axis = plt.subplots(figsize=(8.5, 4.8), layout="constrained")
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
    for way, rows in ways[ways["way"].str.startswith("groups")].groupby("way", sort=False):
        style = {"linestyle": ":", "linewidth": 1, "markersize": 6, "marker": "^" if "GPTQ" in way else "v"}
        axis.plot(rows["bytes"], rows["test_bits"], color="C2", label=f"few bits, {way}", **style)
    for row in nodes.itertuples():
        where = {"xytext": (3, 3), "textcoords": "offset points", "rotation": 40, "rotation_mode": "anchor"}
        axis.annotate(short(row.node), (row.bytes, row.test_bits), size=6, **where)
    axis.set(ylabel="bits per character, test text")
    kilobyte_axis(axis, "file")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure


def draw_against(against: pd.DataFrame) -> Figure:
    """Bits per character that PCD saves over each weighted sum, with their 95 % intervals; a colour a sum.

    Args:
        against: rows of :func:`studylib.experiments.gpt_objectives.against_sums`.
    """
    lines = list(dict.fromkeys(against["objective"]))
    figure, axis = plt.subplots(figsize=(7.5, 1.3 + 0.45 * len(lines)), layout="constrained")
    axis.axvline(0, color="0.6", lw=1)
    for i, (rival, rows) in enumerate(against.groupby("rival", sort=False)):
        at = [lines.index(row.objective) + 0.24 * (i - 0.5) for row in rows.itertuples()]
        half = 1e3 * np.nan_to_num(rows["high"] - rows["saved"])
        axis.errorbar(1e3 * rows["saved"], at, xerr=half, fmt="os"[i], ms=4, color=f"C{i}", label=f"over the {rival}")
    axis.set(xlabel="PCD saves (thousandths of a bit per character)", yticks=range(len(lines)), yticklabels=lines)
    axis.invert_yaxis()
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure
