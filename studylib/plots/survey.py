"""Figures of chapter 9: accuracy against bytes of every technique; what int8 saves of torchvision's classifiers."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from studylib.plots.axes import kilobyte_axis

COLOURS = {"as trained": "0.1", "pruning": "C0", "low rank": "C1", "quantization": "C2"}


def draw_techniques(table: pd.DataFrame, rivals: pd.DataFrame) -> Figure:
    """Test accuracy against bytes of the file, a colour per kind of technique; lines are narrower dense networks.

    Args:
        table: rows of technique, kind, bytes, accuracy (0…1), sd (NaN of one seed).
        rivals: of the narrower networks, rows of form (a line each), bytes, accuracy.
    """
    figure, axis = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for (form, line), style in zip(rivals.groupby("form"), ("-", "--"), strict=False):
        line = line.sort_values("bytes")
        axis.plot(line["bytes"], 100 * line["accuracy"], f"{style}", color="0.6", label=f"narrower, {form}", zorder=0)
    for kind, part in table.groupby("kind", sort=False):
        bars = (100 * part["sd"].astype(float)).fillna(0)
        axis.errorbar(part["bytes"], 100 * part["accuracy"], bars, fmt="o", ms=5, color=COLOURS[kind], label=kind)
        for i, row in enumerate(part.itertuples()):
            where = {"xytext": (4, 5 if i % 2 else -10), "textcoords": "offset points"}
            axis.annotate(row.technique, (row.bytes, 100 * row.accuracy), size=7, **where)
    axis.margins(x=0.12, y=0.08)
    axis.set(ylabel="test accuracy (%)")
    kilobyte_axis(axis, "file")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure


def draw_zoo(rows: pd.DataFrame) -> Figure:
    """Bytes saved by dynamic and by static int8, a pair of bars per model; dots are what arithmetic says.

    Args:
        rows: of model, and in percent "dynamic %", "static %", "dynamic, by arithmetic %", "static, by arithmetic %".
    """
    rows = rows.sort_values("dynamic %")
    figure, axis = plt.subplots(figsize=(7, 1 + 0.32 * len(rows)), layout="constrained")
    for shift, way, colour in ((-0.2, "dynamic", "C0"), (0.2, "static", "C2")):
        at = [i + shift for i in range(len(rows))]
        axis.barh(at, rows[f"{way} %"], 0.36, color=colour, label=f"{way} int8")
        axis.plot(rows[f"{way}, by arithmetic %"], at, "k.", ms=4, label="by arithmetic" if way == "static" else None)
    axis.set(xlabel="bytes saved (%)", yticks=range(len(rows)), yticklabels=rows["model"], xlim=(0, 100))
    axis.legend(loc="lower right", fontsize=8)
    return figure
