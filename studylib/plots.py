"""The figures that more than a few lines draw, each from a table of rows; style and saving are report's."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from studylib import factorial, report, sweep

WAYS = {  # to prune (studylib.prune.METHODS), as legends have them
    "pretrained": "weights back to trained",
    "initial": "weights back to initial",
    "learning_rate": "weights kept",
    "one_shot": "one shot",
    "random": "random positions",
}


def draw_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """Loss and accuracy of training and validation over the epochs, the kept epoch marked (the paper, Figure 2).

    Args:
        history: the rows of :func:`studylib.train.fit`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    kept = history[history["best"]].iloc[-1]
    for axis, what, unit in ((axes[0], "loss", "loss (nats)"), (axes[1], "accuracy", "accuracy (%)")):
        factor = 100 if what == "accuracy" else 1
        for part, label, line in (("train", "training views", "-"), ("val", "validation", "--")):
            axis.plot(history["epoch"], factor * history[f"{part}_{what}"], line, label=label)
        axis.axvline(kept["epoch"], color="0.4", linewidth=1, linestyle=":", label="kept epoch")
        axis.set(xlabel="epoch", ylabel=unit)
    axes[0].legend()
    figure.suptitle(title)
    return figure


def draw_classes_and_reliability(classes: pd.DataFrame, bins: pd.DataFrame) -> Figure:
    """Left the accuracy of each class, right accuracy against confidence with the diagonal (Guo et al. 2017, Figure 1).

    Args:
        classes: rows of class, accuracy.
        bins: rows of :func:`studylib.train.reliability`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.4), layout="constrained")
    axes[0].barh(classes["class"].astype(str), 100 * classes["accuracy"])
    least = 100 * classes["accuracy"].min()
    axes[0].set(xlabel="test accuracy (%)", ylabel="class", xlim=(max(0, least - 5), 100))
    axes[0].invert_yaxis()
    axes[1].plot([0, 100], [0, 100], color="0.4", linestyle="--", linewidth=1, label="confidence is right")
    area = 8 + 400 * bins["images"] / bins["images"].sum()
    axes[1].scatter(100 * bins["confidence"], 100 * bins["accuracy"], s=area, alpha=0.8)
    axes[1].set(xlabel="confidence (%)", ylabel="test accuracy (%)")
    axes[1].legend(loc="lower right")
    return figure


def mean_confidence(bins: pd.DataFrame) -> float:
    """Mean confidence over all images, from the rows of :func:`studylib.train.reliability`."""
    return float((bins["confidence"] * bins["images"]).sum() / bins["images"].sum())


def draw_students(curves: pd.DataFrame) -> Figure:
    """Losses and validation accuracy along the training of students with a teacher and without: mean and deviation.

    Args:
        curves: rows of a training's history (:func:`studylib.train.fit`), and whose they are: student, seed.
    """
    shown = curves.assign(percent=100 * curves["val_accuracy"])
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for axis, column in zip(axes, ("train_loss", "val_loss", "percent"), strict=True):
        look = {"hue": "student", "style": "student", "errorbar": "sd", "legend": axis is axes[0]}
        sns.lineplot(shown, x="epoch", y=column, ax=axis, **look)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    late = shown[shown["epoch"] > shown["epoch"].max() // 4]["percent"]
    for axis in axes[:2]:
        report.plain_log_y(axis)
    axes[0].set(ylabel="training loss (nats)")
    axes[1].set(ylabel="validation cross-entropy (nats)")
    axes[2].set(ylabel="validation accuracy (%)", ylim=(late.min() - 1, None))
    return figure


def draw_pruning(rows: pd.DataFrame, parent: float) -> Figure:
    """Validation accuracy against the weights that remain: mean and deviation over seeds of each way to prune.

    Args:
        rows: of method, sparsity and accuracy (0…1 both), one a seed.
        parent: accuracy (0…1) of the network before pruning: the dashed line.
    """
    shown = rows.assign(remain=100 * (1 - rows["sparsity"]), percent=100 * rows["accuracy"])
    figure, axis = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
    look = {"hue": "method", "style": "method", "markers": True, "dashes": False, "errorbar": "sd"}
    sns.lineplot(shown.replace({"method": WAYS}), x="remain", y="percent", ax=axis, **look)
    axis.axhline(100 * parent, color="0.4", linestyle="--", linewidth=1)
    axis.set(ylabel="validation accuracy (%)")
    report.remaining_axis(axis, shown["remain"])
    return figure


def draw_tree(summary: pd.DataFrame, baseline: str = sweep.ROOT) -> Figure:
    """The tree of combinations, each node with its test accuracy and bytes saved (the paper, Figure 1).

    Args:
        summary: of :func:`studylib.sweep.summary`.
    """
    rows = summary.set_index("node")
    names = list(rows.index)
    children = {name: [n for n in names if sweep.parent_of(n) == name] for name in names}
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
    figure, axis = plt.subplots(figsize=(1.75 * depth, 0.55 * leaves + 0.3), layout="constrained")
    colours = sns.color_palette("viridis", as_cmap=True)
    low, high = rows["test_accuracy"].min(), rows["test_accuracy"].max()
    width, height = 0.8, 0.74
    for name, (x, y) in place.items():
        parent = sweep.parent_of(name)
        if parent in place:
            axis.plot([place[parent][0] + width, x], [place[parent][1], y], color="0.5", linewidth=1, zorder=1)
        accuracy, saved = rows.loc[name, "test_accuracy"], rows.loc[name, "saved"]
        share = (accuracy - low) / (high - low) if high > low else 1.0
        box = plt.Rectangle(
            (x, y - height / 2), width, height, facecolor=colours(share), edgecolor="0.3", linewidth=0.5
        )
        axis.add_patch(box)
        percent = round(100 * saved, 1) + 0.0  # no negative zero
        text = f"{report.label(name.rpartition('-')[2])}\n{100 * accuracy:.1f} %\nsaves {percent:.1f} %"
        ink = "white" if share < 0.6 else "black"
        axis.text(x + width / 2, y, text, ha="center", va="center", fontsize=6.5, color=ink)
    axis.set(xlim=(-0.05, depth - 0.15), ylim=(leaves - 0.5, -0.5))
    axis.axis("off")
    return figure


def draw_effects(effects: pd.DataFrame) -> Figure:
    """Effects with their intervals, a panel a measure: black over seeds, grey over test images; filled where certain.

    Args:
        effects: rows of :func:`studylib.factorial.effects`.
    """
    titles = {
        "test_accuracy": "test accuracy (points)",
        "test_nll": "test NLL (nats)",
        "log2 bytes_file": "bytes of the file (doublings)",
    }
    measures = list(effects["measure"].unique())
    figure, axes = plt.subplots(1, len(measures), figsize=(3.4 * len(measures), 3.6), sharey=True, layout="constrained")
    for axis, measure in zip(np.atleast_1d(axes), measures, strict=True):
        rows = effects[effects["measure"] == measure].reset_index(drop=True)
        factor = 100 if "accuracy" in measure else 1
        for y, row in rows.iterrows():
            axis.plot([factor * row["image_low"], factor * row["image_high"]], [y, y], color="0.7", linewidth=5)
            axis.plot([factor * row["seed_low"], factor * row["seed_high"]], [y, y], color="0.1", linewidth=1)
            face = "white" if row["verdict"] == factorial.UNKNOWN else "black"
            axis.plot(factor * row["mean"], y, "o", color="black", markerfacecolor=face, markersize=5)
        axis.axvline(0, color="0.4", linestyle="--", linewidth=1)
        axis.set(
            xlabel=titles.get(measure, measure),
            yticks=range(len(rows)),
            yticklabels=rows["effect"].map(report.effect_name),
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


def draw_bits(rows: pd.DataFrame) -> Figure:
    """Test accuracy against bits a weight, and against bytes of the file: a colour a network, a line a way of rounding.

    Args:
        rows: network, rounding ("none" for the float model), bits, accuracy, bytes.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), sharey=True, layout="constrained")
    colours = dict(zip(rows["network"].unique(), sns.color_palette("colorblind"), strict=False))
    ways = dict(zip(rows[rows["rounding"] != "none"]["rounding"].unique(), ("o:", "^--", "s-"), strict=False))
    for (network, how), part in rows.groupby(["network", "rounding"], sort=False):
        if how == "none":
            axes[0].axhline(100 * part["accuracy"].iloc[0], color=colours[network], linewidth=0.8)
            axes[1].plot(part["bytes"], 100 * part["accuracy"], "*", color=colours[network], markersize=9)
            continue
        part = part.sort_values("bits")
        for axis, x in zip(axes, ("bits", "bytes"), strict=True):
            look = {"color": colours[network], "markersize": 4, "linewidth": 1}
            axis.plot(part[x], 100 * part["accuracy"], ways[how], **look)
    axes[0].set(xlabel="bits a weight", ylabel="test accuracy (%)", xticks=sorted(set(rows["bits"]) - {32}))
    report.kilobyte_axis(axes[1], "file")
    handles = [Line2D([], [], color=colour, linewidth=3, label=network) for network, colour in colours.items()]
    handles += [Line2D([], [], color="0.3", marker=way[0], linestyle=way[1:], label=how) for how, way in ways.items()]
    handles.append(Line2D([], [], color="0.3", marker="*", linestyle="-", linewidth=0.8, label="floats"))
    figure.legend(handles=handles, loc="outside right center", fontsize=7.5, frameon=False)
    return figure
