"""Axes that figures of several chapters have."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

LEADER = {"arrowstyle": "-", "color": "0.6", "lw": 0.6}  # from a name to its point


def ticks(percent: pd.Series) -> list[float]:
    """Round numbers for a logarithmic axis of percentages, those within the range of ``percent``."""
    low, high = 0.999 * percent.min(), 1.001 * percent.max()  # 100 · (1 − 0.8) is a little below 20
    return [tick for tick in (100, 50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1) if low <= tick <= high]


def remaining_axis(axis: Axes, percent: pd.Series) -> None:
    """Makes x the weights that remain, in ``percent``: logarithmic, and falling from left to right."""
    axis.set(xscale="log", xlabel="weights that remain (%)")
    axis.set_xticks(ticks(percent))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.minorticks_off()
    axis.invert_xaxis()


def kilobyte_axis(axis: Axes, what: str) -> None:
    """Makes x, on which bytes are drawn, logarithmic and labelled in kB of 1,000 bytes, with plain numbers."""
    axis.set(xscale="log", xlabel=f"{what} (kB of 1,000 bytes)")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(lambda size, _: f"{size / 1000:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def plain_log_y(axis: Axes) -> None:
    """Makes y logarithmic, with plain numbers: 0.5, not 5 × 10⁻¹; between powers of ten few, or more where few fit."""

    def minor(y: float, _) -> str:
        low, high = axis.get_ylim()
        return f"{y:g}" if f"{y:e}"[0] in ("25" if high > 10 * low else "234568") else ""

    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(minor)


def legend_below(figure: Figure, handles: Sequence[Artist], names: Sequence[str], columns: int = 4) -> None:
    """Puts one legend below all panels of a figure, so that they keep its whole width."""
    handles = [each.lines[0] if hasattr(each, "lines") else each for each in handles]  # of an error bar its mark
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def move_apart(figure: Figure) -> None:
    """Moves the texts in each panel apart, and from the points of its error bars, with lines back; called last."""
    figure.canvas.draw()  # panels have their sizes from here on
    for axis in figure.axes:
        if axis.texts:
            x, y = np.concatenate([each.lines[0].get_xydata() for each in axis.containers]).T
            how = {"expand": (1.15, 1.4), "force_text": (0.5, 0.8), "iter_lim": 1000, "arrowprops": LEADER}
            adjust_text(list(axis.texts), x, y, ax=axis, **how)
