"""Figures: one style for all, and every figure saved with the rows that it was drawn from."""

import io
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from studylib.disk import files
from studylib.results.tables import save_table

DPI = 220  # of a saved figure: enough for print


def style() -> None:
    """Sets the plot style: colour-blind safe, readable in print, whatever a matplotlibrc says; inline in notebooks."""
    matplotlib.rcdefaults()
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel") and not plt.get_backend().endswith(("nbagg", "ipympl", "widget")):
        shell.enable_matplotlib("inline")
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.1)
    plt.rcParams |= {"figure.dpi": 110, "pdf.fonttype": 42}


def save_figure(figure: Figure, path: Path, rows: pd.DataFrame | None = None, about: dict | None = None) -> None:
    """Writes ``path``.png, .pdf, and .json with ``rows``, if given, and ``about`` them: profile, seeds, commit, …

    ``path`` has no suffix, and is absolute or below the study's root.
    """
    path = files.resolve(path)
    for suffix in ("png", "pdf"):
        buffer = io.BytesIO()
        metadata = {"Software": None} if suffix == "png" else {"CreationDate": None, "Producer": None, "Creator": None}
        figure.savefig(buffer, format=suffix, metadata=metadata, dpi=DPI, bbox_inches="tight")
        files.write_bytes(path.with_name(f"{path.name}.{suffix}"), buffer.getvalue())
    if rows is not None:
        save_table(path.with_name(f"{path.name}.json"), rows, about)
