"""Figures of chapter 14: smaller networks by several ways, what a controller does, convergence, latencies."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from studylib.plots.axes import legend_below, plain_log_y

OURS = "controller"
COLOURS = ("0.1", "C0", "C2", "C1", "C4", "C9", "0.55")  # of the ways in their order: those that lie far apart
STAGES = {"unmasked": "unmasked", "masked": "masked", "sliced": "sliced", "tuned": "fine-tuned"}
LEARNING = {
    "controller_loss": "controller's loss",
    "share": "multiply-adds left (%)",
    "turned": "gates that changed",
    "zero": "closed groups at zero (%)",
}


def _looks(ways: list[str]) -> dict[str, dict]:
    """A colour and a mark for each way, the same in every figure; the controller's stands out."""
    marks, looks = "osD^vPX*", {}
    for i, way in enumerate(ways):
        looks[way] = {"color": COLOURS[i % len(COLOURS)], "marker": marks[i % len(marks)], "ms": 5}
        looks[way]["lw"] = 2 if way == OURS else 1
    return looks


def draw_front(rows: pd.DataFrame) -> Figure:
    """Test accuracy against multiply-adds of each way: mean and standard deviation over seeds, a mark a budget.

    Args:
        rows: of way, budget, share and accuracy (0…1 all), one per seed.
    """
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    ways = list(dict.fromkeys(rows["way"]))
    for way, look in _looks(ways).items():
        found = rows[rows["way"] == way].groupby("budget")[["share", "accuracy"]].agg(["mean", "std"])
        bars = (100 * found["accuracy", "std"]).fillna(0)
        axis.errorbar(100 * found["share", "mean"], 100 * found["accuracy", "mean"], bars, label=way, **look)
    axis.set(xscale="log", xlabel="multiply-adds left (%)", ylabel="test accuracy (%)")
    axis.set_xticks([100 * budget for budget in sorted(set(rows["budget"]))])
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    legend_below(figure, *axis.get_legend_handles_labels())
    return figure


def draw_stages(rows: pd.DataFrame) -> Figure:
    """Test accuracy of the controller's networks, a panel a budget: a line a seed, and their mean.

    Args:
        rows: of budget, seed, and unmasked, masked, sliced, tuned (0…1).
    """
    budgets = sorted(set(rows["budget"]))
    size = {"figsize": (8, 3.4), "sharey": True, "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(1, len(budgets), **size)
    for axis, budget in zip(axes[0], budgets, strict=True):
        part = 100 * rows[rows["budget"] == budget][list(STAGES)].astype(float)
        axis.plot(list(STAGES.values()), part.to_numpy().T, color="0.75", lw=1)
        axis.plot(list(STAGES.values()), part.mean(), "o-", color="0.1", lw=2)
        axis.set_title(f"{100 * budget:g} % of the multiply-adds")
        axis.tick_params(axis="x", rotation=30)
    axes[0][0].set_ylabel("test accuracy (%)")
    return figure


def draw_kept(rows: pd.DataFrame) -> Figure:
    """Share of the channels that each way leaves, layer by layer, a panel a budget.

    Args:
        rows: of way, budget, layer (in their order) and share (0…1), means over seeds.
    """
    budgets, layers = sorted(set(rows["budget"])), list(dict.fromkeys(rows["layer"]))
    size = {"figsize": (9, 2.2 + 0.24 * len(layers)), "sharey": True, "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(1, len(budgets), **size)
    looks = _looks(list(dict.fromkeys(rows["way"])))
    for axis, budget in zip(axes[0], budgets, strict=True):
        for way, look in looks.items():
            part = rows[(rows["budget"] == budget) & (rows["way"] == way)].set_index("layer")["share"]
            axis.plot(100 * part[layers], range(len(layers)), label=way, **look)
        axis.set(title=f"{100 * budget:g} % of the multiply-adds", xlabel="channels left (%)", xlim=(0, 105))
    axes[0][0].set(yticks=range(len(layers)), yticklabels=[layer.removeprefix("features.") for layer in layers])
    axes[0][0].invert_yaxis()
    legend_below(figure, *axes[0][0].get_legend_handles_labels())
    return figure


def _lines(axis: plt.Axes, rows: pd.DataFrame, column: str, factor: float = 1.0) -> None:
    """A line a budget: mean over seeds, and what lies between the least and the most of them."""
    for i, (budget, part) in enumerate(rows.dropna(subset=column).groupby("budget")):
        found = factor * part.groupby("epoch")[column].agg(["mean", "min", "max"])
        axis.plot(found.index, found["mean"], color=f"C{i}", label=f"{100 * budget:g} %")
        axis.fill_between(found.index, found["min"], found["max"], color=f"C{i}", alpha=0.2, lw=0)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_learning(rows: pd.DataFrame) -> Figure:
    """The controller's loss, multiply-adds, changes and zeros along training, a line a budget.

    Args:
        rows: of budget, seed, epoch and the columns of :data:`LEARNING`; the loss is NaN where nothing is learnt.
    """
    figure, axes = plt.subplots(2, 2, figsize=(8, 5.6), layout="constrained", sharex=True)
    for axis, (column, title) in zip(axes.flat, LEARNING.items(), strict=True):
        _lines(axis, rows, column, 100 if title.endswith("(%)") else 1)
        axis.set_ylabel(title)
    for i, budget in enumerate(sorted(set(rows["budget"]))):
        axes.flat[1].axhline(100 * budget, color=f"C{i}", lw=0.8, ls=":")
    legend_below(figure, *axes.flat[0].get_legend_handles_labels())
    return figure


def draw_gates(rows: pd.DataFrame) -> Figure:
    """Share of each layer's gates that are open after each epoch, a panel a budget.

    Args:
        rows: of budget, epoch, layer (in their order) and share (0…1), means over seeds.
    """
    budgets, layers = sorted(set(rows["budget"])), list(dict.fromkeys(rows["layer"]))
    size = {"figsize": (9, 1.6 + 0.24 * len(layers)), "sharey": True, "squeeze": False, "layout": "constrained"}
    figure, axes = plt.subplots(1, len(budgets), **size)
    for axis, budget in zip(axes[0], budgets, strict=True):
        wide = rows[rows["budget"] == budget].pivot(index="layer", columns="epoch", values="share").loc[layers]
        last = wide.columns[-1] + 0.5
        extent = (0.5, last, len(layers) - 0.5, -0.5)
        shown = axis.imshow(100 * wide, aspect="auto", extent=extent, cmap="viridis", vmin=0, vmax=100)
        axis.set(title=f"{100 * budget:g} % of the multiply-adds", xlabel="epoch")
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.grid(visible=False)
    axes[0][0].set(yticks=range(len(layers)), yticklabels=[layer.removeprefix("features.") for layer in layers])
    figure.colorbar(shown, ax=axes[0][-1], label="gates open (%)")
    return figure


def draw_convergence(rows: pd.DataFrame, final: int) -> Figure:
    """The objective's envelope and the norm of the projected gradient along training, a line a budget.

    The third panel is the envelope since the choice of channels is final, which the dotted lines mark.

    Args:
        rows: of budget, seed, epoch, envelope (nats) and projected.
        final: the epoch after which the choice is final.
    """
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.6), layout="constrained")
    panels = (("envelope", rows), ("projected", rows), ("envelope", rows[rows["epoch"] > final]))
    names = ("envelope (nats)", "norm of the projected gradient", "envelope, choice final (nats)")
    for axis, (column, part), name in zip(axes, panels, names, strict=True):
        _lines(axis, part, column)
        axis.set_ylabel(name)
    for axis in axes[:2]:
        axis.axvline(final + 0.5, color="0.4", lw=0.8, ls=":")
        plain_log_y(axis)
    legend_below(figure, *axes[0].get_legend_handles_labels())
    return figure


def draw_latency(rows: pd.DataFrame, whole: str) -> Figure:
    """Milliseconds a batch against multiply-adds, and against numbers that layers write; a mark a network.

    Args:
        rows: of way, multiply_adds and written (an image), latency_ms; among the ways is ``whole``, of one row.
        whole: the way of the network that nothing was taken out of.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.9), sharey=True, layout="constrained")
    looks = _looks([way for way in dict.fromkeys(rows["way"]) if way != whole])
    looks[whole] = {"color": "0.1", "marker": "x", "ms": 8}
    for axis, (column, name) in zip(
        axes, (("multiply_adds", "multiply-adds"), ("written", "numbers written")), strict=True
    ):
        for way, look in looks.items():
            part = rows[rows["way"] == way]
            axis.plot(part[column] / 1000, part["latency_ms"], label=way, **look | {"lw": 0, "alpha": 0.7})
        axis.set_xlabel(f"{name} an image (thousands)")
    axes[0].set_ylabel("ms a batch")
    legend_below(figure, *axes[0].get_legend_handles_labels())
    return figure
