"""Figures of chapter 10: bits per character against bytes, and what common descent saves."""

import pandas as pd
from matplotlib.figure import Figure

from studylib.plots import generative


def draw_bits(nodes: pd.DataFrame, dense: pd.DataFrame, ways: pd.DataFrame) -> Figure:
    """Test bits per character against the file's size: combinations, narrower networks, other ways to round.

    Bars are the interval of the difference from the whole network. Low and left is better. Other ways that need more
    bits than all combinations and narrower networks lie beyond the upper edge.

    Args:
        nodes, dense: of :func:`studylib.experiments.generative_told.summary`, by node, and by width and form.
        ways: means over seeds of the rows of :func:`studylib.experiments.gpt.ways`.
    """
    figure = generative.combinations(nodes, dense, "bits per character, test text")
    limits = figure.axes[0].get_ylim()
    for way, rows in ways[ways["way"].str.startswith("groups")].groupby("way", sort=False):
        style = {"linestyle": ":", "linewidth": 1, "markersize": 6, "marker": "^" if "GPTQ" in way else "v"}
        figure.axes[0].plot(rows["bytes"], rows["test_bits"], color="C2", label=f"few bits, {way}", **style)
    figure.axes[0].set_ylim(limits)
    return generative.finish(figure)


def draw_against(against: pd.DataFrame, named: dict[str, str]) -> Figure:
    """:func:`studylib.plots.generative.draw_against` in bits per character."""
    return generative.draw_against(against, named, "bits per character")
