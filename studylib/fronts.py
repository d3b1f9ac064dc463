"""The figures of accuracy against bytes, each from a table of rows: combinations, ways to train, small files."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from studylib import factorial, report


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
            "label": report.label(node),
        }
    return found


def draw_front(summary: pd.DataFrame) -> Figure:
    """Test accuracy against bytes, all nodes, ± one standard deviation (the paper, Figure 6).

    Left the bytes of the file that was written and read back, right the paper's accounting (nonzeros at their
    stored width, positions free), on one scale. Colour: distilled or not; filled: int8; shape: what was done between.

    Args:
        summary: of :func:`studylib.sweep.summary`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), sharex=True, sharey=True, layout="constrained")
    marks = _marks(summary["node"])
    for _, row in summary.iterrows():
        for axis, column in zip(axes, ("bytes_file", "bytes_nonzero"), strict=True):
            axis.errorbar(
                row[column],
                100 * row["test_accuracy"],
                yerr=100 * (0 if math.isnan(row["test_accuracy_sd"]) else row["test_accuracy_sd"]),
                **marks[row["node"]],
            )
    axes[0].set(ylabel="test accuracy (%)")
    for axis, label in zip(axes, ("file", "by the paper's count"), strict=True):
        report.kilobyte_axis(axis, label)
    handles, names = axes[0].get_legend_handles_labels()
    handles = [container.lines[0] for container in handles]
    figure.legend(handles, names, loc="outside right center", fontsize=7.5, frameon=False)
    return figure


def draw_control(summary: pd.DataFrame, controls: pd.DataFrame) -> tuple[Figure, list[str]]:
    """Test accuracy against bytes of the file: the combinations, their Pareto front, and dense controls.

    Args:
        summary: of :func:`studylib.sweep.summary`.
        controls: rows of kind, bytes, accuracy, sd: narrower dense networks.

    Returns:
        The figure, and the nodes of the front.
    """
    figure, axis = plt.subplots(figsize=(8.5, 4.6), layout="constrained")
    palette, marks = sns.color_palette("colorblind"), _marks(summary["node"])
    best = summary[factorial.pareto(summary, "bytes_file", "test_accuracy")].sort_values("bytes_file")
    line = {"color": "0.2", "linewidth": 1.6, "drawstyle": "steps-post", "label": "front", "zorder": 1}
    axis.plot(best["bytes_file"], 100 * best["test_accuracy"], **line)
    for _, row in summary.iterrows():
        deviation = 0 if math.isnan(row["test_accuracy_sd"]) else 100 * row["test_accuracy_sd"]
        axis.errorbar(row["bytes_file"], 100 * row["test_accuracy"], yerr=deviation, **marks[row["node"]])
    for (kind, rows), line, colour in zip(
        controls.groupby("kind"), ("s--", "^:"), (palette[2], palette[4]), strict=False
    ):
        rows = rows.sort_values("bytes")
        percent, sd = 100 * rows["accuracy"], 100 * rows["sd"]
        look = {"fmt": line if len(rows) > 1 else line[0], "color": colour, "capsize": 2}
        axis.errorbar(rows["bytes"], percent, yerr=sd, label=f"narrower dense network, {kind}", **look)
    axis.set(ylabel="test accuracy (%)")
    report.kilobyte_axis(axis, "file")
    handles, names = axis.get_legend_handles_labels()
    handles = [h.lines[0] if hasattr(h, "lines") else h for h in handles]
    figure.legend(handles, names, loc="outside right center", fontsize=7.5, frameon=False)
    return figure, list(best["node"])


def draw_frontier(points: pd.DataFrame, marks: list) -> tuple[Figure, list[str]]:
    """Test accuracy against the file's size, a colour a network, a mark a number of bits, and what others reported.

    The front is a step: a file of so many bytes, or more, can have that accuracy.

    Args:
        points: rows of name, network, bits, bytes, test_accuracy.
        marks: of :data:`studylib.marks.MARKS`, stars, hollow where nobody made such a file; [] for another data set.

    Returns:
        The figure, and the names on the front.
    """
    figure, axis = plt.subplots(figsize=(8, 4.4), layout="constrained")
    shown = points.assign(percent=100 * points["test_accuracy"], kB=points["bytes"] / 1000)
    shown["bits"] = shown["bits"].astype(int).astype(str) + " bits"
    style = "bits" if shown["bits"].nunique() > 1 else None
    if style is None:
        shown["network"] += ", " + shown["bits"]
    sns.scatterplot(shown, x="kB", y="percent", hue="network", style=style, s=45, ax=axis)
    best = points[factorial.pareto(points, "bytes", "test_accuracy")].sort_values("bytes")
    if len(best) > 1:
        line = {"color": "0.3", "linewidth": 1.2, "drawstyle": "steps-post", "label": "front", "zorder": 0}
        axis.plot(best["bytes"] / 1000, 100 * best["test_accuracy"], **line)
    for mark in marks:
        face = "none" if mark.estimate else "0.1"
        axis.plot(mark.bytes / 1000, mark.accuracy, "*", color="0.1", markerfacecolor=face, markersize=10)
    axis.margins(x=0.08, y=0.08)
    axis.set(xscale="log", xlabel="file (kB of 1,000 bytes)", ylabel="test accuracy (%)")
    for mark in marks:
        near = [
            other for other in marks if 0 < other.accuracy - mark.accuracy < 3 and 0.7 < other.bytes / mark.bytes < 1.4
        ]
        where = {"xytext": (0, -12 if near else 6), "textcoords": "offset points", "ha": "center"}
        axis.annotate(mark.label, (mark.bytes / 1000, mark.accuracy), size=7, **where)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda kb, _: f"{kb:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure, list(best["name"])


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
