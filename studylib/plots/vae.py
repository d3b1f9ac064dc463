"""Figures of chapter 11: bits per dimension against bytes, images to look at, what common descent saves."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from studylib.plots import generative


def draw_bits(nodes: pd.DataFrame, dense: pd.DataFrame) -> Figure:
    """Test bits per dimension against the file's size: the sixteen combinations, and narrower dense networks.

    Bars are the interval of the difference from the whole network. Low and left is better.

    Args:
        nodes, dense: of :func:`studylib.experiments.generative_told.summary`, by node, and by width and form.
    """
    return generative.finish(generative.combinations(nodes, dense, "bits per dimension, test images"))


def draw_images(shown: pd.DataFrame, short: Callable[[str], str]) -> Figure:
    """Test images, what each network makes of them, and what it draws itself: dense first, smallest last.

    Args:
        shown: rows of :func:`studylib.experiments.vae.shown`.
    """
    lines = list(shown.groupby(["kind", "network"], sort=False))
    lines.sort(key=lambda line: ["image", "reconstruction", "sample"].index(line[0][0]))  # else as they came
    count = shown["number"].max() + 1
    size = (0.6 * count + 2.2, 0.62 * len(lines))
    figure, grid = plt.subplots(len(lines), count, figsize=size, layout="constrained", squeeze=False)
    for axes, ((kind, network), rows) in zip(grid, lines, strict=True):
        for axis, row in zip(axes, rows.sort_values("number").itertuples(), strict=True):
            levels = np.array([int(digit, 16) for digit in row.pixels]).reshape(row.shape).transpose(1, 2, 0) / 15
            levels = levels[..., 0] if levels.shape[-1] == 1 else levels
            axis.imshow(levels, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        said = f"{short(network)},\n{kind}s" if network else "test images"
        axes[0].set_ylabel(said, rotation=0, ha="right", va="center", size=8)
    return figure


def draw_against(against: pd.DataFrame, named: dict[str, str]) -> Figure:
    """:func:`studylib.plots.generative.draw_against` in bits per dimension."""
    return generative.draw_against(against, named, "bits per dimension")
