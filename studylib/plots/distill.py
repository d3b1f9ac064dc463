"""Figures of chapter 2: students with and without a teacher, and the settings of a teacher."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studylib.plots.axes import plain_log_y


def draw_students(curves: pd.DataFrame) -> Figure:
    """Losses and validation accuracy along the training of students with a teacher and without: mean and deviation.

    Args:
        curves: rows of a training's history (:func:`studylib.training.loop.fit`), and whose they are: student, seed.
    """
    shown = curves.assign(percent=100 * curves["val_accuracy"])
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for axis, column in zip(axes, ("train_loss", "val_loss", "percent"), strict=True):
        look = {"hue": "student", "style": "student", "errorbar": "sd", "legend": axis is axes[0]}
        sns.lineplot(shown, x="epoch", y=column, ax=axis, **look)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    late = shown[shown["epoch"] > shown["epoch"].max() // 4]["percent"]
    for axis in axes[:2]:
        plain_log_y(axis)
    axes[0].set(ylabel="training loss (nats)")
    axes[1].set(ylabel="validation cross-entropy (nats)")
    axes[2].set(ylabel="validation accuracy (%)", ylim=(late.min() - 1, min(101, late.max() + 2)))
    return figure


def draw_settings(rows: pd.DataFrame) -> Figure:
    """Validation accuracy, weight of the teacher α (down) by temperature T (across).

    Args:
        rows: of T, α, accuracy (0…1), one a setting.
    """
    grid = 100 * rows.pivot(index="α", columns="T", values="accuracy")
    size = (1.2 + 0.8 * grid.shape[1], 1.2 + 0.5 * len(grid))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    bar = {"label": "validation accuracy (%)"}
    sns.heatmap(grid, annot=True, fmt=".1f", cmap="viridis", cbar_kws=bar, ax=axis)
    axis.set(xlabel="temperature T", ylabel="weight of the teacher α")
    return figure
