"""Figure of chapter 8: accuracy against bytes of small files."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from studylib.plots.axes import kilobyte_axis, legend_below
from studylib.results import statistics


def draw_files(points: pd.DataFrame, marks: Sequence = ()) -> Figure:
    """Test accuracy against the file's size, a colour per network, a mark per number of bits, and what others reported.

    The front is a step: a file of so many bytes, or more, can have that accuracy.

    Args:
        points: rows of name, network, bits, bytes, test_accuracy.
        marks: of :func:`studylib.experiments.frontier_marks.of_data`, stars, hollow where nobody made such a file.
    """
    figure, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    shown = points.assign(percent=100 * points["test_accuracy"])
    shown["bits"] = shown["bits"].astype(int).astype(str) + " bits"
    style = "bits" if shown["bits"].nunique() > 1 else None
    if style is None:
        shown["network"] += ", " + shown["bits"]
    sns.scatterplot(shown, x="bytes", y="percent", hue="network", style=style, s=45, ax=axis)
    best = points[statistics.pareto(points, "bytes", "test_accuracy")].sort_values("bytes")
    if len(best) > 1:
        line = {"color": "0.3", "linewidth": 1.2, "drawstyle": "steps-post", "label": "front", "zorder": 0}
        axis.plot(best["bytes"], 100 * best["test_accuracy"], **line)
    for mark in marks:
        face = "none" if mark.estimate else "0.1"
        axis.plot(mark.bytes, mark.accuracy, "*", color="0.1", markerfacecolor=face, markersize=10)
    axis.margins(x=0.08, y=0.08)
    axis.set(ylabel="test accuracy (%)")
    kilobyte_axis(axis, "file")
    for mark in marks:
        near = [
            other for other in marks if 0 < other.accuracy - mark.accuracy < 3 and 0.7 < other.bytes / mark.bytes < 1.4
        ]
        where = {"xytext": (0, -12 if near else 6), "textcoords": "offset points", "ha": "center"}
        axis.annotate(mark.label, (mark.bytes, mark.accuracy), size=7, **where)
    legend_below(figure, *axis.get_legend_handles_labels(), columns=3)
    axis.legend_.remove()
    return figure
