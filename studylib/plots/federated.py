"""Figures of chapter 13: who has what, ways by heterogeneity, what a teacher adds, accuracy per byte."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from studylib.plots.axes import kilobyte_axis, legend_below

BOUNDS = ("alone", "central")  # ways that are no federation: dotted
TITLES = {"balanced": "mean over classes", "worst": "worst class"}
CLASSES = {"rare": "classes that few clients hold", "common": "other classes"}


def _name(alpha: float) -> str:
    return f"{alpha:g}" if alpha else "classes"


def draw_splits(rows: pd.DataFrame) -> Figure:
    """How many images of each class a client has, a panel a split; rare classes have a star.

    Args:
        rows: of alpha (0: whole classes each), client, class, images, rare.
    """
    alphas = sorted(rows["alpha"].unique())
    size = {"figsize": (1.3 + 1.55 * len(alphas), 3.6), "sharey": True, "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(1, len(alphas), **size)
    classes = list(dict.fromkeys(rows["class"]))
    for axis, alpha in zip(axes[0], alphas, strict=True):
        part = rows[rows["alpha"] == alpha]
        wide = part.pivot(index="class", columns="client", values="images").loc[classes]
        shown = axis.imshow(wide, aspect="auto", cmap="Blues", vmin=0, vmax=rows["images"].max())
        axis.set(title=f"α = {alpha:g}" if alpha else "classes", xlabel="client", xticks=range(wide.shape[1]))
        axis.set_xticklabels(range(1, wide.shape[1] + 1))
        axis.grid(False)
        for label in part.loc[part["rare"], "class"].unique():
            axis.text(wide.shape[1] - 0.62, classes.index(label), "*", va="center", ha="right", color="C3", fontsize=12)
    axes[0][0].set(ylabel="class", yticks=range(len(classes)), yticklabels=classes)
    figure.colorbar(shown, ax=axes[0][-1], label="images")
    return figure


def _looks(ways: list[str]) -> dict[str, dict]:
    """A colour for each way without its teacher; with one it is filled and solid."""
    bases = list(dict.fromkeys(way.partition(" ")[0] for way in ways))
    looks = {}
    for way in ways:
        base, _, taught = way.partition(" ")
        color = f"C{bases.index(base)}"
        line = ":" if base in BOUNDS else "-" if taught else "--"
        looks[way] = {"color": color, "ls": line, "marker": "o" if taught else "s", "ms": 5, "capsize": 2}
        looks[way] |= {"mfc": color if taught else "white", "lw": 1.4 if taught else 1}
    return looks


def draw_ways(rows: pd.DataFrame) -> Figure:
    """Test accuracy of each way against heterogeneity, mean and standard deviation over seeds; filled: taught.

    Args:
        rows: of way, alpha (0: whole classes each), balanced and worst (0…1), one per seed.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    alphas = sorted(rows["alpha"].unique())
    ways = list(dict.fromkeys(rows["way"]))
    for axis, (score, title) in zip(axes, TITLES.items(), strict=True):
        for k, (way, look) in enumerate(_looks(ways).items()):
            found = 100 * rows[rows["way"] == way].groupby("alpha")[score].agg(["mean", "std"]).loc[alphas]
            at = np.arange(len(alphas)) + 0.04 * (k - (len(ways) - 1) / 2)
            axis.errorbar(at, found["mean"], found["std"].fillna(0), label=way, **look)
        axis.set(title=title, xlabel="α (small: clients differ much)", ylabel="test accuracy (%)")
        axis.set_xticks(range(len(alphas)), [_name(alpha) for alpha in alphas])
    legend_below(figure, *axes[0].get_legend_handles_labels())
    return figure


def draw_gains(rows: pd.DataFrame) -> Figure:
    """Points of accuracy that the teacher adds to federated averaging, by split, for rare and for other classes.

    Bars are means over seeds, dots the seeds.

    Args:
        rows: of seed, alpha, rare and common (points), Dirichlet splits alone.
    """
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    alphas = sorted(rows.dropna(subset=list(CLASSES))["alpha"].unique())
    for k, (column, label) in enumerate(CLASSES.items()):
        at = np.arange(len(alphas)) + 0.4 * (k - 0.5)
        axis.bar(at, rows.groupby("alpha")[column].mean()[alphas], 0.38, color=f"C{k}", alpha=0.6, label=label)
        for place, alpha in zip(at, alphas, strict=True):
            part = rows.loc[rows["alpha"] == alpha, column]
            axis.plot(np.full(len(part), place), part, ".", color="0.25", ms=4)
    axis.axhline(0, color="0.4", lw=0.8)
    axis.set_xticks(range(len(alphas)), [_name(alpha) for alpha in alphas])
    axis.set(xlabel="α (small: clients differ much)", ylabel="points by the teacher")
    legend_below(figure, *axis.get_legend_handles_labels())
    return figure


def draw_bytes(rounds: pd.DataFrame, rows: pd.DataFrame) -> Figure:
    """Accuracy per byte of each form of messages: left along the rounds, right when all are done.

    Left are validation images, means over seeds; a dot is a round. Right are test images, mean and standard deviation.

    Args:
        rounds: of seed, form, round, down, up (bytes) and validation (0…1).
        rows: of form, down, up (bytes of all rounds) and balanced (0…1), one per seed.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for k, form in enumerate(dict.fromkeys(rows["form"])):
        look = {
            "color": f"C{k}",
            "marker": "osD^vPX*"[k % 8],
            "ms": 4,
            "label": "Flower's own" if form == "flower" else form,
        }
        part = rounds[rounds["form"] == form].sort_values(["seed", "round"])
        sent = (part["down"] + part["up"]).groupby(part["seed"]).cumsum()
        means = part.assign(sent=sent).groupby("round")[["sent", "validation"]].mean()
        axes[0].plot(means["sent"], 100 * means["validation"], lw=1.2, **look)
        done = rows[rows["form"] == form]
        accuracy = 100 * done["balanced"]
        spread = accuracy.std() if len(done) > 1 else 0
        axes[1].errorbar((done["down"] + done["up"]).mean(), accuracy.mean(), spread, capsize=3, **look | {"ms": 7})
    axes[0].set(title="along the rounds", ylabel="validation accuracy (%)")
    axes[1].set(title="after the last round", ylabel="test accuracy, mean over classes (%)")
    for axis in axes:
        kilobyte_axis(axis, "sent, both directions, all clients")
    legend_below(figure, *axes[0].get_legend_handles_labels())
    return figure
