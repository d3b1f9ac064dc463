"""Figures of chapter 7: the tree, accuracy against bytes, effects."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from studylib.plots.axes import kilobyte_axis, legend_below
from studylib.results import statistics, tables
from studylib.tree.names import TEACHER, parent_of


def draw_tree(summary: pd.DataFrame, baseline: str = TEACHER) -> Figure:
    """The tree of combinations, each node with its test accuracy and bytes saved (the paper, Figure 1).

    Args:
        summary: of :func:`studylib.tree.table.summary`.
    """
    rows = summary.set_index("node")
    names = list(rows.index)
    children = {name: [n for n in names if parent_of(n) == name] for name in names}
    place: dict[str, tuple[float, float]] = {}
    leaves = 0

    def lay(name: str, depth: int) -> float:
        nonlocal leaves
        below = [lay(child, depth + 1) for child in children[name]]
        y = sum(below) / len(below) if below else float(leaves)
        leaves += not below
        place[name] = (depth, y)
        return y

    lay(baseline, 0)
    depth = 1 + max(x for x, _ in place.values())
    figure, axis = plt.subplots(figsize=(1.5 * depth, 0.55 * leaves + 0.3), layout="constrained")
    colours = sns.color_palette("viridis", as_cmap=True)
    low, high = rows["test_accuracy"].min(), rows["test_accuracy"].max()
    width, height = 0.8, 0.74
    for name, (x, y) in place.items():
        parent = parent_of(name)
        if parent in place:
            axis.plot([place[parent][0] + width, x], [place[parent][1], y], color="0.5", linewidth=1, zorder=1)
        accuracy, saved = rows.loc[name, "test_accuracy"], rows.loc[name, "saved"]
        share = (accuracy - low) / (high - low) if high > low else 1.0
        box = plt.Rectangle(
            (x, y - height / 2), width, height, facecolor=colours(share), edgecolor="0.3", linewidth=0.5
        )
        axis.add_patch(box)
        percent = round(100 * saved, 1) + 0.0  # no negative zero
        text = f"{tables.label(name.rpartition('-')[2])}\n{100 * accuracy:.1f} %\nsaves {percent:.1f} %"
        ink = "white" if share < 0.6 else "black"
        axis.text(x + width / 2, y, text, ha="center", va="center", fontsize=7, color=ink)
    axis.set(xlim=(-0.05, depth - 0.15), ylim=(leaves - 0.5, -0.5))
    axis.axis("off")
    return figure


def draw_effects(effects: pd.DataFrame) -> Figure:
    """Effects with their intervals, a panel a measure: black over seeds, grey over test images; filled where certain.

    Args:
        effects: rows of :func:`studylib.experiments.sweep_effects.effects`; of none, the figure says so.
    """
    if effects.empty:
        figure, axis = plt.subplots(figsize=(3.4, 0.6), layout="constrained")
        axis.text(0.5, 0.5, "no technique, no effect", ha="center", va="center")
        axis.axis("off")
        return figure
    titles = {
        "test_accuracy": "test accuracy (points)",
        "test_nll": "test NLL (nats)",
        "log2 bytes_file": "bytes of the file (doublings)",
    }
    measures = list(effects["measure"].unique())
    figure, axes = plt.subplots(1, len(measures), figsize=(2.9 * len(measures), 3.6), sharey=True, layout="constrained")
    for axis, measure in zip(np.atleast_1d(axes), measures, strict=True):
        rows = effects[effects["measure"] == measure].reset_index(drop=True)
        factor = 100 if "accuracy" in measure else 1
        for y, row in rows.iterrows():
            axis.plot([factor * row["image_low"], factor * row["image_high"]], [y, y], color="0.7", linewidth=5)
            axis.plot([factor * row["seed_low"], factor * row["seed_high"]], [y, y], color="0.1", linewidth=1)
            face = "white" if row["verdict"] == statistics.UNKNOWN else "black"
            axis.plot(factor * row["mean"], y, "o", color="black", markerfacecolor=face, markersize=5)
        axis.axvline(0, color="0.4", linestyle="--", linewidth=1)
        axis.set(
            xlabel=titles.get(measure, measure),
            yticks=range(len(rows)),
            yticklabels=rows["effect"].map(tables.effect_name),
        )
    np.atleast_1d(axes)[0].invert_yaxis()
    look = {"color": "black", "linestyle": "none", "marker": "o", "markersize": 5}
    handles = [
        Line2D([], [], color="0.7", linewidth=5, label="over test images"),
        Line2D([], [], **look, markerfacecolor="white", label="cannot tell"),
    ]
    if effects["seed_low"].notna().any():
        handles.insert(0, Line2D([], [], color="0.1", linewidth=1, label="over seeds"))
        handles.insert(2, Line2D([], [], **look, label="neither holds zero"))
    else:
        handles[1].set_label("one seed: not told apart from luck of the seed")
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure


def _marks(nodes: pd.Series) -> dict[str, dict]:
    """How each node is drawn. Colour: distilled or not; filled: int8; shape: what was done in between."""
    palette, shapes, found = sns.color_palette("colorblind"), {}, {}
    for node in nodes:
        techniques = node.split("-")[1:]
        between = tuple(t for t in techniques if t not in ("kd", "int8"))
        colour = palette[0 if "kd" in techniques else 3]
        found[node] = {
            "fmt": shapes.setdefault(between, "osD^vP*Xph<>"[len(shapes) % 12]),
            "color": colour,
            "markersize": 7,
            "markeredgewidth": 1.3,
            "markerfacecolor": colour if "int8" in techniques else "white",
            "capsize": 2,
            "label": tables.label(node),
        }
    return found


def _front(axis: Axes, summary: pd.DataFrame, column: str) -> None:
    """The Pareto front of the means. It is a step: a larger file can be as accurate."""
    best = summary[statistics.pareto(summary, column, "test_accuracy")].sort_values(column)
    line = {"color": "0.2", "linewidth": 1.6, "drawstyle": "steps-post", "label": "front", "zorder": 1}
    axis.plot(best[column], 100 * best["test_accuracy"], **line)


def draw_front(summary: pd.DataFrame) -> Figure:
    """Test accuracy against bytes, all nodes and their front, ± one standard deviation (the paper, Figure 6).

    Left are the bytes of the file that was written and read back. Right is the paper's accounting (nonzeros at their
    stored width, positions free), on the same scale. Colour: distilled or not; filled: int8; shape: what was done
    between.

    Args:
        summary: of :func:`studylib.tree.table.summary`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 5), sharex=True, sharey=True, layout="constrained")
    marks = _marks(summary["node"])
    for _, row in summary.iterrows():
        for axis, column in zip(axes, ("bytes_file", "bytes_nonzero"), strict=True):
            axis.errorbar(
                row[column],
                100 * row["test_accuracy"],
                yerr=100 * (0 if math.isnan(row["test_accuracy_sd"]) else row["test_accuracy_sd"]),
                **marks[row["node"]],
            )
    for axis, column in zip(axes, ("bytes_file", "bytes_nonzero"), strict=True):
        _front(axis, summary, column)
    axes[0].set(ylabel="test accuracy (%)")
    for axis, label in zip(axes, ("file", "by the paper's count"), strict=True):
        kilobyte_axis(axis, label)
    legend_below(figure, *axes[0].get_legend_handles_labels(), columns=3)
    return figure


def draw_control(rows: pd.DataFrame) -> Figure:
    """Test accuracy against bytes of the file: the combinations, their Pareto front, and narrower dense networks.

    Args:
        rows: of :func:`studylib.experiments.sweep_narrower.control`.
    """
    figure, axis = plt.subplots(figsize=(8, 5.4), layout="constrained")
    combined = rows["kind"] == "combination"
    summary, palette = rows[combined], sns.color_palette("colorblind")
    _front(axis, summary, "bytes_file")
    marks = _marks(summary["node"])
    for _, row in summary.iterrows():
        deviation = 0 if math.isnan(row["test_accuracy_sd"]) else 100 * row["test_accuracy_sd"]
        axis.errorbar(row["bytes_file"], 100 * row["test_accuracy"], yerr=deviation, **marks[row["node"]])
    for (kind, networks), line, colour in zip(
        rows[~combined].groupby("kind"), ("s--", "^:"), (palette[2], palette[4]), strict=False
    ):
        networks = networks.sort_values("bytes")
        percent, sd = 100 * networks["accuracy"], 100 * networks["sd"].fillna(0)
        look = {"fmt": line if len(networks) > 1 else line[0], "color": colour, "capsize": 2}
        axis.errorbar(networks["bytes"], percent, yerr=sd, label=f"narrower dense network, {kind}", **look)
    axis.set(ylabel="test accuracy (%)")
    kilobyte_axis(axis, "file")
    legend_below(figure, *axis.get_legend_handles_labels(), columns=3)
    return figure
