"""Figures: one style for all, and every figure saved with the rows that it was drawn from."""

import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from studylib.disk import files
from studylib.results.tables import records_of

DPI = 220  # of a saved figure: enough for print


def style() -> None:
    """Sets the plot style of the study: colour-blind safe, readable in print, whatever a matplotlibrc says.

    In a notebook, figures then appear below their cells, also where matplotlib was imported before the notebook began.
    """
    matplotlib.rcdefaults()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel") and not plt.get_backend().endswith(("nbagg", "ipympl", "widget")):
        shell.enable_matplotlib("inline")
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.1)
    plt.rcParams |= {"figure.dpi": 110, "pdf.fonttype": 42}


def save_figure(figure: Figure, path: Path, rows: pd.DataFrame, about: dict | None = None) -> None:
    """Writes ``path``.png, .pdf, and .json with the rows that the figure shows and ``about`` them.

    Args:
        path: without suffix, absolute or below the study's root.
        rows: what was drawn, one row a mark.
        about: where the rows come from: profile, seeds, commit, …
    """
    import io

    path = files.resolve(path)
    for suffix in ("png", "pdf"):
        buffer = io.BytesIO()
        metadata = {"Software": None} if suffix == "png" else {"CreationDate": None, "Producer": None, "Creator": None}
        figure.savefig(buffer, format=suffix, metadata=metadata, dpi=DPI, bbox_inches="tight")
        files.write_bytes(path.with_name(f"{path.name}.{suffix}"), buffer.getvalue())
    files.write_json(path.with_name(f"{path.name}.json"), {"about": about or {}, "rows": records_of(rows)})


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
