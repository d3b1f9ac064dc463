"""Figures and tables: one style, and every figure saved with the rows it was drawn from."""

import json
import math
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from studylib import store, sweep

DPI = 220  # of a saved figure: enough for print
TECHNIQUE_NAMES = {"kd": "distillation", "imp": "pruning", "svd": "SVD", "int8": "int8"}


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

    path = store.resolve(path)
    for suffix in ("png", "pdf"):
        buffer = io.BytesIO()
        metadata = {"Software": None} if suffix == "png" else {"CreationDate": None, "Producer": None, "Creator": None}
        figure.savefig(buffer, format=suffix, metadata=metadata, dpi=DPI, bbox_inches="tight")
        store.write_bytes(path.with_name(f"{path.name}.{suffix}"), buffer.getvalue())
    store.write_json(path.with_name(f"{path.name}.json"), {"about": about or {}, "rows": _records(rows)})


def show_published(name: str, caption: str) -> None:
    """Shows a published figure in a notebook, wherever that lies: the picture itself, its caption, where it is from.

    Args:
        name: of the figure below ``figures/``, without suffix. Where it is not there, a sentence says so.
    """
    from IPython.display import Image, Markdown, display

    path = store.root() / "figures" / f"{name}.png"
    if not path.is_file():
        display(Markdown(f"*{caption}: `figures/{name}.png` is not in this copy of the study.*"))
        return
    display(Image(filename=path, width=900))
    about = store.read_json(path.with_suffix(".json"))["about"]
    said = f"{caption}. `figures/{name}.json` has the rows. {where_from(about)}".strip()  # no space before the last *
    display(Markdown(f"*{said}*"))


def show_study(about: dict, published: str = "") -> None:
    """Says in a notebook whether it shows the study in the folder ``published`` or rows made here, and their origin."""
    from IPython.display import Markdown, display

    shown = f"the study published in `{published}`" if published else "rows that were made here"
    display(Markdown(f"*This page shows {shown}. {where_from(about)}".strip() + "*"))


def where_from(about: dict) -> str:
    """Data set, profile, seeds, commit, date and hardware of rows in a sentence; empty where they do not say."""
    data, made = about.get("data", {}), about.get("provenance", about)
    seeds = about.get("seeds", [data["seed"]] if "seed" in data else [])
    said = {
        "data set": data.get("name"),
        "profile": about.get("profile"),
        "seeds" if len(seeds) > 1 else "seed": seeds,
        "commit": made.get("git_commit"),
        "of": (made.get("date") or "")[:10],
        "on": made.get("hardware"),
    }
    listed = {key: ", ".join(map(str, value)) if isinstance(value, list) else value for key, value in said.items()}
    found = "; ".join(f"{key} {value}" for key, value in listed.items() if value).replace("; of ", " of ")
    return f"{found[0].upper()}{found[1:]}." if found else ""


def _records(rows: pd.DataFrame) -> list[dict]:
    return json.loads(rows.to_json(orient="records", double_precision=10))


def save_table(path: Path, rows: pd.DataFrame, about: dict | None = None) -> None:
    """Writes ``path``.json with ``rows`` and where they come from: a table that is cited like a figure."""
    store.write_json(store.resolve(path).with_suffix(".json"), {"about": about or {}, "rows": _records(rows)})


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


def label(node: str) -> str:
    """A node's name for people: ``teacher-kd-int8`` → ``distillation + int8``."""
    techniques = [TECHNIQUE_NAMES.get(t, t) for t in node.split("-") if t != sweep.ROOT]
    return " + ".join(techniques) or "teacher"


def plus_minus(mean: float, deviation: float, digits: int) -> str:
    """``mean ± deviation``; the mean alone where there is no deviation (one seed), a dash where there is neither."""
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}")


def display_table(summary: pd.DataFrame) -> pd.DataFrame:
    """The table for people, mean ± standard deviation over seeds, as text; kB are 1,000 bytes."""
    columns = {
        "test accuracy %": ("test_accuracy", 100, 2),
        "file kB": ("bytes_file", 1e-3, 1),
        "saved %": ("saved", 100, 2),
        "entropy kB": ("bytes_entropy", 1e-3, 1),
        "zstd kB": ("bytes_zstd", 1e-3, 1),
        "sparse kB": ("bytes_sparse", 1e-3, 1),
        "nonzeros × width kB": ("bytes_nonzero", 1e-3, 1),
        "NLL": ("test_nll", 1, 3),
        "calibration error %": ("test_ece", 100, 1),
        "agreement %": ("agreement", 100, 1),
        "latency ms": ("latency_ms", 1, 2),
    }
    rows = []
    for _, row in summary.iterrows():
        cells = {"node": row["node"]}
        for title, (column, factor, digits) in columns.items():
            deviation = row.get(f"{column}_sd", float("nan"))
            if column == "latency_ms" or not deviation:  # latency is of one seed; sizes often do not vary
                deviation = float("nan")
            cells[title] = plus_minus(factor * row[column], factor * deviation, digits)
        rows.append(cells)
    return pd.DataFrame(rows)


def text_table(summary: pd.DataFrame) -> str:
    """:func:`display_table` for a terminal, with the number of seeds below."""
    table = display_table(summary).to_string(index=False, justify="right")
    seeds = int(summary["seeds"].max())
    return f"{table}\n" + (f"mean ± standard deviation over n = {seeds} seeds" if seeds > 1 else "one seed")


def markdown_rows(rows: pd.DataFrame, digits: int = 2) -> str:
    """Any table in Markdown, its index left out: floats with ``digits`` decimals, a dash where there is none."""

    def text(value) -> str:
        if isinstance(value, float):
            return "–" if math.isnan(value) else f"{value:,.{digits}f}"
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    numeric = ["---:" if pd.api.types.is_numeric_dtype(dtype) else "---" for dtype in rows.dtypes]
    lines = ["| " + " | ".join(map(str, rows.columns)) + " |", "|" + "|".join(numeric) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(text, row)) + " |" for row in rows.itertuples(index=False))])


def effect_name(effect: str) -> str:
    """``imp × int8`` → ``pruning × int8``."""
    return " × ".join(TECHNIQUE_NAMES.get(part, part) for part in effect.split(" × "))


def effects_table(effects: pd.DataFrame) -> str:
    """The rows of :func:`studylib.factorial.effects` in Markdown: a table a measure, with value, intervals, verdict."""
    if effects.empty:
        return "No technique was applied: there is no effect."
    units = {"test_accuracy": ("points", 100, 2), "test_nll": ("nats", 1, 4), "log2 bytes_file": ("doublings", 1, 2)}
    tables = []
    for measure, rows in effects.groupby("measure", sort=False):
        unit, factor, digits = units.get(measure, ("", 1, 3))
        name = measure.replace("test_", "").replace("log2 bytes_file", "bytes")

        def text(row, end, factor=factor, digits=digits):
            low, high = factor * row[f"{end}_low"], factor * row[f"{end}_high"]
            return "–" if math.isnan(low) else f"{low:+.{digits}f} to {high:+.{digits}f}"

        columns: dict[str, list[str]] = {f"effect on {name}": [effect_name(effect) for effect in rows["effect"]]}
        columns[unit or "value"] = [f"{factor * row['mean']:+.{digits}f}" for _, row in rows.iterrows()]
        columns["over seeds"] = [text(row, "seed") for _, row in rows.iterrows()]
        if rows["image_low"].notna().any():
            columns["over images"] = [text(row, "image") for _, row in rows.iterrows()]
        columns["verdict"] = list(rows["verdict"])
        tables.append(markdown_rows(pd.DataFrame(columns)))
    return "\n\n".join(tables)


def markdown_table(summary: pd.DataFrame, columns: list[str] | None = None) -> str:
    """:func:`display_table` (or some of its columns) in Markdown."""
    table = display_table(summary)
    table = table[columns] if columns else table
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" + "---:|" * (len(table.columns) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in table.itertuples(index=False))])
