"""Figures of chapter 10: bits per character against bytes, and what common descent saves."""

import pandas as pd
from matplotlib.figure import Figure

from studylib.plots import generative


def draw_bits(nodes: pd.DataFrame, dense: pd.DataFrame, ways: pd.DataFrame) -> Figure:
    """Test bits per character against the file's size: combinations, narrower networks, other ways to round.

    Bars are the interval of the difference from the whole network. Low and left is better.

    Args:
        nodes, dense: of :func:`studylib.experiments.generative_told.summary`, by node, and by width and form.
        ways: means over seeds of the rows of :func:`studylib.experiments.gpt.ways`.
    """
    figure = generative.combinations(nodes, dense, "bits per character, test text")
    for way, rows in ways[ways["way"].str.startswith("groups")].groupby("way", sort=False):
        style = {"linestyle": ":", "linewidth": 1, "markersize": 6, "marker": "^" if "GPTQ" in way else "v"}
        figure.axes[0].plot(rows["bytes"], rows["test_bits"], color="C2", label=f"few bits, {way}", **style)
    return generative.finish(figure)


def draw_against(against: pd.DataFrame) -> Figure:
    """Bits per character that PCD saves over each weighted sum, with their 95 % intervals; a colour a sum.

    Args:
        against: rows of :func:`studylib.experiments.gpt_objectives.against_sums`.
    """
    lines = list(dict.fromkeys(against["objective"]))
    return generative.saved(against, lines, lambda row: row.objective, lines, "bits per character")
