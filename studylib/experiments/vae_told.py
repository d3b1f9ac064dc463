"""What chapter 11's rows say, in tables and in words."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from studylib.disk import files
from studylib.experiments import generative_told as told
from studylib.experiments.generative_told import short, summary
from studylib.experiments.published import Figures
from studylib.experiments.vae import BITS
from studylib.results import statistics
from studylib.tree import names

WITHIN = 0.01  # share of the whole network's bits that a small file may cost
WORDS = {statistics.HELP: "needs more", statistics.HURT: "needs fewer", statistics.UNKNOWN: statistics.UNKNOWN}
PICTURES = ["network", "kind"]
ELSEWHERE = "digits"  # the study asked where that of the data set has not published a chapter


def listed_of(rows: pd.DataFrame) -> pd.DataFrame:
    """:func:`listed` of rows as they are published, of every combination and seed."""
    return listed(summary(rows))


def listed(nodes: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`summary` for people; costs in percent of the whole network's bits."""
    whole = nodes.set_index("node")[["bytes", "test_bits"]].loc[names.TEACHER]
    costs = [told.said(100 * np.array([r.costs, r.costs_low, r.costs_high]) / whole["test_bits"]) for r in _each(nodes)]
    return pd.DataFrame(
        {
            "combination": nodes["node"].map(short),
            "file kB": nodes["bytes"] / 1000,
            "saved %": 100 * (1 - nodes["bytes"] / whole["bytes"]),
            "zeros %": 100 * nodes["zeros"],
            BITS: nodes["test_bits"].map("{:.4f}".format),
            "costs %": [
                "–" if node == names.TEACHER else cost for node, cost in zip(nodes["node"], costs, strict=True)
            ],
            "against the whole": ["–" if r.node == names.TEACHER else WORDS[r.verdict] for r in _each(nodes)],
        }
    )


def smallest(nodes: pd.DataFrame, within: float = WITHIN) -> str:
    """The smallest file whose bits on validation images are at most that share above the teacher's: its node."""
    return told.smallest(nodes, within * nodes.set_index("node")["val_bits"][names.TEACHER])


def of_classifiers(dataset: str) -> list[str]:
    """The published study of classifiers of that data set, then :data:`ELSEWHERE`; none where none is published."""
    studies = Figures(files.root() / "figures").studies
    own = [study for study, about in studies.items() if about["data"]["name"] == dataset and "-" not in study]
    return [*dict.fromkeys([own[0], ELSEWHERE])] if own else []


def marks_listed(marks: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """What has to be beaten, beside the whole network and the smallest that is nearly as good."""
    return told.marks_listed(marks, rows, smallest(summary(rows)), BITS, 4)


def marks_told(marks: pd.DataFrame, nodes: pd.DataFrame) -> str:
    """Which marks the whole network beats, in words."""
    whole = nodes.set_index("node")["test_bits"][names.TEACHER]
    beaten, rest = told.beaten(marks, whole, BITS, 3)
    return f"The whole network needs {whole:.3f} bits per dimension. More need: {beaten}. Fewer need: {rest}."


def nodes_told(nodes: pd.DataFrame, small: str) -> str:
    """The smallest file within :data:`WITHIN`, and which combinations surely cost no more than that, in words."""
    by = nodes.set_index("node")
    whole, least = by.loc[names.TEACHER], by.loc[small]
    cost = told.said([100 * least[name] / whole["test_bits"] for name in ("costs", "costs_low", "costs_high")])
    return (
        f"Of the sixteen, the smallest file within {WITHIN:.0%} of the whole network's bits, "
        f"by validation images, is {short(small)}. "
        f"It has {least['bytes']:,.0f} bytes, {1 - least['bytes'] / whole['bytes']:.1%} less. "
        f"On test images it costs {cost} % bits. "
        f"{told.surely_within(nodes, WITHIN * whole['test_bits'], f'{WITHIN:.0%}')}"
    )


def images_told(images: pd.DataFrame, *nodes: str) -> str:
    """How far reconstructions are from their images, of the whole network and of ``nodes``, in words."""
    levels = {key: np.stack([[int(d, 16) for d in p] for p in of["pixels"]]) for key, of in images.groupby(PICTURES)}
    true = levels["", "image"]
    gaps = {name: np.abs(levels[name, "reconstruction"] - true).mean() / 15 for name in (names.TEACHER, *nodes)}
    said = ", ".join(f"{short(name)} {gap:.2%}" for name, gap in gaps.items())
    return f"Of {len(true)} images, the mean pixel of a reconstruction is off by: {said}."


def drawn_by(draw: Callable) -> Callable:
    """``draw`` (nodes, dense) for rows as they are published, of every combination and of narrower networks."""
    return lambda made, alone: draw(summary(made), summary(alone, ["width", "form"]))


def _each(rows: pd.DataFrame):
    return rows.itertuples()
