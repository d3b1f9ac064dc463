"""Figures of chapter 4: spectra, accuracy against Δ, bytes of layers factorized and pruned."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter


def draw_spectra(rows: pd.DataFrame) -> Figure:
    """Singular values by size, a line per layer, a dotted one at its break-even rank.

    Args:
        rows: of layer, index (1 the largest), share (0…1, of the layer's norm), even (the break-even rank).
    """
    figure, axis = plt.subplots(figsize=(6.5, 3.6), layout="constrained")
    for label, part in rows.groupby("layer", sort=False):
        (line,) = axis.plot(part["index"], part["share"], ".-", label=label)
        axis.axvline(part["even"].iloc[0], color=line.get_color(), linestyle=":", linewidth=1)
    axis.set(xlabel="singular value, by size", ylabel="share of the layer's norm", yscale="log", xscale="log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(ylim=(rows[rows["share"] > 1e-6]["share"].min() / 1.5, 1.2))
    axis.legend()
    return figure


def draw_ranks(rows: pd.DataFrame, whole: pd.DataFrame | None = None) -> Figure:
    """Validation accuracy against Δ, a panel per network: mean and deviation over seeds, a line per way.

    Args:
        rows: of network, how, delta, accuracy (0…1), one per seed.
        whole: of network and accuracy (0…1) before it was factorized, the grey lines; None: not drawn.
    """
    networks, ways = rows["network"].unique(), list(rows["how"].unique())
    figure, axes = plt.subplots(
        1, len(networks), figsize=(4.5 * len(networks), 3.4), layout="constrained", squeeze=False
    )
    look = {"hue": "how", "hue_order": ways, "style": "how", "style_order": ways, "markers": True, "errorbar": "sd"}
    for axis, network in zip(axes[0], networks, strict=True):
        part = rows[rows["network"] == network].assign(percent=lambda r: 100 * r["accuracy"])
        sns.lineplot(part, x="delta", y="percent", ax=axis, **look)
        if whole is not None:
            axis.axhline(100 * whole.set_index("network")["accuracy"][network], color="0.4", linewidth=1)
        axis.set(title=network, xlabel="Δ (rank below break-even)", ylabel="validation accuracy (%)")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(title=None, fontsize=7)
    return figure


def draw_interplay(rows: pd.DataFrame) -> Figure:
    """Bytes of each linear layer, a panel per layer with a scale of its own, a bar per form.

    Args:
        rows: of layer, form (as it was, pruned, and each factorized), bytes (with positions).
    """
    layers, forms = rows["layer"].unique(), rows["form"].unique()
    size = {"figsize": (1.5 + 2.6 * len(layers), 2.2), "layout": "constrained"}
    figure, axes = plt.subplots(1, len(layers), sharey=True, squeeze=False, **size)
    for axis, layer in zip(axes[0], layers, strict=True):
        part = rows[rows["layer"] == layer].assign(kB=lambda r: r["bytes"] / 1000)
        sns.barplot(part, x="kB", y="form", hue="form", order=forms, hue_order=forms, legend=False, ax=axis)
        axis.set(title=layer, xlabel="kB with positions", ylabel="")
    return figure
