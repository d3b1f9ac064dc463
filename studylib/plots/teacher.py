"""Figures of chapter 1: curves of training, classes, calibration."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure


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
