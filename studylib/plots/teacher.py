"""Figures of chapter 1: curves of training, classes, calibration, choosing on the test set."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure


def draw_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """Loss and accuracy of training and validation over the epochs, the kept epoch marked (the paper, Figure 2).

    Args:
        history: the rows of :func:`studylib.training.loop.fit`.
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


def draw_classes_and_reliability(rows: pd.DataFrame) -> Figure:
    """Left the accuracy of each class, right accuracy against confidence with the diagonal (Guo et al. 2017, Figure 1).

    Args:
        rows: of :func:`studylib.experiments.teacher.classes_and_calibration`.
    """
    classes, bins = (rows[rows["part"] == part] for part in ("classes", "reliability"))
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


def draw_choosing(rows: pd.DataFrame) -> Figure:
    """Test accuracy along each training: a dot where validation images choose the epoch, a cross where the test set.

    The axis shows what the last three quarters of the epochs reach.

    Args:
        rows: of epoch, test_accuracy (0…1), best (on validation images so far) and seed.
    """
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for seed, each in rows.groupby("seed"):
        (line,) = axis.plot(each["epoch"], 100 * each["test_accuracy"], linewidth=1, label=f"training {seed}")
        chosen, peak = each[each["best"]].iloc[-1], each.loc[each["test_accuracy"].idxmax()]
        axis.plot(chosen["epoch"], 100 * chosen["test_accuracy"], "o", color=line.get_color())
        axis.plot(peak["epoch"], 100 * peak["test_accuracy"], "x", color=line.get_color(), markersize=9)
    axis.plot([], [], "o", color="0.3", label="chosen on validation")
    axis.plot([], [], "x", color="0.3", markersize=9, label="chosen on the test set")
    late = 100 * rows[rows["epoch"] > rows["epoch"].max() // 4]["test_accuracy"]
    axis.set(xlabel="epoch", ylabel="test accuracy (%)", ylim=(late.min() - 1, late.max() + 1))
    axis.legend()
    return figure
