"""Figures that chapters 10 and 11 share: bits against bytes, and what common descent saves."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from studylib.plots.axes import kilobyte_axis, legend_below, move_apart
from studylib.tree import names

MARKS = {"float32": "o", "int8": "s"}
THICK = {"capsize": 2, "elinewidth": 0.7, "capthick": 0.7}
PANELS = {"without SVD": False, "with SVD": True}


def combinations(nodes: pd.DataFrame, dense: pd.DataFrame, bits: str) -> Figure:
    """Draws test bits against the file's size: combinations without SVD above, those with it below.

    Colour and mark say whether one is distilled and int8; what is pruned is named so. Narrower dense networks are lines
    in both panels, dashed where they trained longer. Each panel has its own scale upward. Bars are the interval of the
    difference from the whole network.

    Args:
        nodes, dense: of :func:`studylib.experiments.generative_told.summary`, by node, and by width and form.
        bits: what is drawn upward.
    """
    figure, axes = plt.subplots(2, figsize=(8, 7), sharex=True, layout="constrained")
    for axis, (title, factorized) in zip(axes, PANELS.items(), strict=True):
        _narrower(axis, dense)
        _points(axis, nodes[nodes["node"].str.contains("-svd") == factorized])
        axis.set(ylabel=bits)
        axis.margins(x=0.09)  # names stand beside the outermost points
        axis.set_title(title, loc="left", size=10)
        kilobyte_axis(axis, "file")
    axes[0].set(xlabel="")
    return figure


def _narrower(axis: Axes, dense: pd.DataFrame) -> None:
    for form, rows in dense.sort_values("bytes").groupby("form"):
        plain, _, longer = form.partition(", ")
        style = {"color": "0.3" if longer else "0.6", "linestyle": "--" if longer else "-", "marker": MARKS[plain]}
        style |= {"linewidth": 1, "markersize": 5, "zorder": 0}
        axis.plot(rows["bytes"], rows["test_bits"], label=f"narrower, {form}", **style)


def _points(axis: Axes, nodes: pd.DataFrame) -> None:
    for student in (False, True):
        colour = "C0" if student else "C1"
        for form in MARKS:
            said = nodes["node"].str
            rows = nodes[(said.contains("-kd") == student) & (said.endswith("-int8") == (form == "int8"))]
            error = [rows["costs"] - rows["costs_low"], rows["costs_high"] - rows["costs"]]
            style = {"color": colour, "linestyle": "none", "markersize": 6, "marker": MARKS[form]}
            label = f"{'student, distilled' if student else 'whole width'}, {form}"
            axis.errorbar(rows["bytes"], rows["test_bits"], np.nan_to_num(error), label=label, **style, **THICK)
            for row in rows.itertuples():
                if name := "pruned" if "-imp" in row.node else "whole" if row.node == names.TEACHER else "":
                    text = axis.text(row.bytes, row.test_bits, f" {name}", size=9, color=colour, zorder=1)
                    text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def finish(figure: Figure) -> Figure:
    """Adds one legend below both panels, and moves names apart."""
    legend_below(figure, *figure.axes[0].get_legend_handles_labels(), columns=3)
    move_apart(figure)
    return figure


def draw_against(against: pd.DataFrame, named: dict[str, str], bits: str) -> Figure:
    """Bits that PCD saves over each weighted sum, with their 95 % intervals; a colour a sum.

    Each second objective and stage is a panel with its own scale.

    Args:
        against: rows of :func:`studylib.experiments.generative_objectives.against_sums`.
        named: objective → its name for people.
        bits: what they are, such as "bits per character".
    """

    def of(row) -> tuple[str, str]:
        return row.objective, row.stage

    lines = list(dict.fromkeys(map(of, against.itertuples())))
    size = (7.5, 1 + 0.75 * len(lines))
    figure, axes = plt.subplots(len(lines), figsize=size, layout="constrained", squeeze=False)
    for axis, line, name in zip(axes[:, 0], lines, [f"{named[other]}, {stage}" for other, stage in lines], strict=True):
        axis.axvline(0, color="0.6", lw=1)
        for i, (rival, rows) in enumerate(against.groupby("rival", sort=False)):
            row = next(row for row in rows.itertuples() if of(row) == line)
            half = np.nan_to_num(row.high - row.saved)
            style = {"fmt": "os"[i], "ms": 4, "color": f"C{i}", "label": f"over the {rival}"}
            axis.errorbar(row.saved, i, xerr=half, **style)
        reach = np.nan_to_num(against[[of(row) == line for row in against.itertuples()]][["low", "high"]])
        most = 1.1 * max(np.abs(reach).max(), 1e-9)
        axis.xaxis.set_major_locator(MaxNLocator(7, symmetric=True))
        axis.set(yticks=[0.5], yticklabels=[name], ylim=(1.7, -0.7), xlim=(-most, most))
        axis.grid(axis="y", visible=False)
    axes[-1, 0].set_xlabel(f"PCD saves ({bits})")
    legend_below(figure, *axes[0, 0].get_legend_handles_labels())
    return figure
