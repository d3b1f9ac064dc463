"""Figures of chapter 9: accuracy against bytes of every technique, leaks, bytes of torchvision's classifiers."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from studylib.plots.axes import kilobyte_axis, move_apart

COLOURS = {"as trained": "0.1", "pruning": "C0", "low rank": "C1", "quantization": "C2"}


def draw_techniques(table: pd.DataFrame, rivals: pd.DataFrame) -> Figure:
    """Test accuracy against bytes of the file, a colour per kind of technique; lines are narrower dense networks.

    Args:
        table: rows of network (a panel each), technique (named beside its point), kind, bytes, accuracy (0…1).
            Its sd is NaN of one seed.
        rivals: of the narrower networks, rows of network, form (a line each), bytes, accuracy.
    """
    names = list(dict.fromkeys(table["network"]))
    size = (9, 0.4 + 4.6 * len(names))
    figure, axes = plt.subplots(len(names), 1, figsize=size, layout="constrained", squeeze=False)
    for name, axis in zip(names, axes.flat, strict=True):
        of = rivals[rivals["network"] == name]
        for (form, line), style in zip(of.groupby("form"), ("-", "--"), strict=False):
            line, label = line.sort_values("bytes"), f"narrower, {form}"
            axis.plot(line["bytes"], 100 * line["accuracy"], style, color="0.6", label=label, zorder=0)
        for kind, part in table[table["network"] == name].groupby("kind", sort=False):
            bars = (100 * part["sd"].astype(float)).fillna(0)
            axis.errorbar(part["bytes"], 100 * part["accuracy"], bars, fmt="o", ms=5, color=COLOURS[kind], label=kind)
        for row in table[table["network"] == name].sort_values("bytes").itertuples():
            axis.text(row.bytes, 100 * row.accuracy, row.technique, size=7)
        axis.margins(x=0.12, y=0.12)
        axis.set(ylabel="test accuracy (%)", title=name)
        kilobyte_axis(axis, "file")
    axes.flat[0].legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    move_apart(figure)
    return figure


def draw_leaks(rows: pd.DataFrame) -> Figure:
    """Change of the AUC of membership inference by each technique, with Student's 95 % interval, a mark per network.

    Args:
        rows: of network, technique, kind, and in points of AUC change, low, high (NaN of one seed).
    """
    names, keys = list(dict.fromkeys(rows["network"])), list(dict.fromkeys(rows["technique"]))
    figure, axis = plt.subplots(figsize=(7, 1 + 0.28 * len(keys)), layout="constrained")
    axis.axvline(0, color="0.6", lw=1)
    for i, (name, mark) in enumerate(zip(names, "osD^v", strict=False)):
        part = rows[rows["network"] == name]
        at = [keys.index(key) + 0.3 * (i - (len(names) - 1) / 2) for key in part["technique"]]
        half = (part["high"] - part["change"]).fillna(0)
        axis.errorbar(part["change"], at, xerr=half, fmt=mark, ms=4, color=f"C{i}", label=name)
    axis.set(xlabel="change of the attack's AUC (points)", yticks=range(len(keys)), yticklabels=keys)
    axis.invert_yaxis()
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
    axis.margins(y=0.01)
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    return figure
