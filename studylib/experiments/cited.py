"""The pictures that the project's pages cite, each drawn from published rows."""

import pandas as pd

from studylib.experiments.frontier_marks import MARKS
from studylib.plots import frontier, moo, sweep
from studylib.results.style import Figure
from studylib.tree import table


def draw_front(nodes: pd.DataFrame) -> Figure:
    """The front of a study's nodes: rows of node, seed and :data:`studylib.tree.table.COLUMNS`."""
    return sweep.draw_front(table.summary(nodes))


def draw_files(points: pd.DataFrame) -> Figure:
    """The small files of all studies beside those of others."""
    return frontier.draw_files(points, MARKS)


PICTURES = {  # name → study, what draws it, key of a chapter and its tables; without a key: the nodes
    "accuracy_against_bytes_cifar10": ("cifar10", draw_front, "", "nodes"),
    "accuracy_against_bytes_digits": ("digits", draw_front, "", "nodes"),
    "narrower_networks_cifar10": ("cifar10", sweep.draw_control, "sweep", "control"),
    "narrower_networks_digits": ("digits", sweep.draw_control, "sweep", "control"),
    "effects_digits": ("digits", sweep.draw_effects, "sweep", "effects"),
    "ways_to_train_cifar10": ("cifar10", moo.draw_ways, "moo", "moo_front", "moo_sparsity"),
}
