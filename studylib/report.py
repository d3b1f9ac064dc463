"""Figures and tables: one style, and every figure saved with the rows it was drawn from."""

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from studylib import store, sweep

DPI = 220  # of a saved figure: enough for print
TECHNIQUE_NAMES = {"kd": "distillation", "imp": "pruning", "svd": "SVD", "int8": "int8"}


def style() -> None:
    """Sets the plot style of the study: colour-blind safe, readable in print."""
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
    content = {"about": about or {}, "rows": json.loads(rows.to_json(orient="records", double_precision=10))}
    store.write_json(path.with_name(f"{path.name}.json"), content)


def draw_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """Loss and accuracy of training and validation over the epochs, the kept epoch marked (the paper, Figure 2).

    Args:
        history: the rows of :func:`studylib.train.fit`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.2), layout="constrained")
    kept = history[history["best"]].iloc[-1]
    for axis, what, unit in ((axes[0], "loss", "loss (nats)"), (axes[1], "accuracy", "accuracy (%)")):
        factor = 100 if what == "accuracy" else 1
        for part, label, line in (("train", "training views", "-"), ("val", "validation", "--")):
            axis.plot(history["epoch"], factor * history[f"{part}_{what}"], line, label=label)
        axis.axvline(kept["epoch"], color="0.4", linewidth=1, linestyle=":", label="kept epoch")
        axis.set(xlabel="epoch", ylabel=unit)
    axes[0].legend()
    figure.suptitle(title)
    return figure


def draw_tree(summary: pd.DataFrame, baseline: str = sweep.ROOT) -> Figure:
    """The tree of combinations, each node with its test accuracy and bytes saved (the paper, Figure 1).

    Args:
        summary: of :func:`studylib.sweep.summary`.
    """
    rows = summary.set_index("node")
    names = list(rows.index)
    children = {name: [n for n in names if sweep.parent_of(n) == name] for name in names}
    place: dict[str, tuple[float, float]] = {}
    leaves = 0

    def lay(name: str, depth: int) -> float:
        nonlocal leaves
        below = [lay(child, depth + 1) for child in children[name]]
        y = sum(below) / len(below) if below else float(leaves)
        leaves += not below
        place[name] = (depth, y)
        return y

    lay(baseline, 0)
    depth = 1 + max(x for x, _ in place.values())
    figure, axis = plt.subplots(figsize=(1.75 * depth, 0.55 * leaves + 0.3), layout="constrained")
    colours = sns.color_palette("viridis", as_cmap=True)
    low, high = rows["test_accuracy"].min(), rows["test_accuracy"].max()
    width, height = 0.8, 0.74
    for name, (x, y) in place.items():
        parent = sweep.parent_of(name)
        if parent in place:
            axis.plot([place[parent][0] + width, x], [place[parent][1], y], color="0.5", linewidth=1, zorder=1)
        accuracy, saved = rows.loc[name, "test_accuracy"], rows.loc[name, "saved"]
        share = (accuracy - low) / (high - low) if high > low else 1.0
        box = plt.Rectangle(
            (x, y - height / 2), width, height, facecolor=colours(share), edgecolor="0.3", linewidth=0.5
        )
        axis.add_patch(box)
        text = f"{label(name.rpartition('-')[2])}\n{100 * accuracy:.1f} %\nsaves {round(100 * saved, 1) + 0.0:.1f} %"
        ink = "white" if share < 0.6 else "black"
        axis.text(x + width / 2, y, text, ha="center", va="center", fontsize=6.5, color=ink)
    axis.set(xlim=(-0.05, depth - 0.15), ylim=(leaves - 0.5, -0.5))
    axis.axis("off")
    return figure


def draw_front(summary: pd.DataFrame) -> Figure:
    """Test accuracy against bytes saved, all nodes, ± one standard deviation (the paper, Figure 6).

    Left the bytes of the file that was written and read back, right the paper's accounting (nonzeros at their
    stored width, positions free). Colour: distilled or not; filled: int8; shape: what was done in between.

    Args:
        summary: of :func:`studylib.sweep.summary`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), sharey=True, layout="constrained")
    palette, shapes = sns.color_palette("colorblind"), {}
    root = summary[summary["node"] == sweep.ROOT].iloc[0]
    for _, row in summary.iterrows():
        techniques = row["node"].split("-")[1:]
        between = tuple(t for t in techniques if t not in ("kd", "int8"))
        marker = shapes.setdefault(between, "osD^vP*Xph<>"[len(shapes) % 12])
        colour = palette[0 if "kd" in techniques else 3]
        for axis, column in zip(axes, ("bytes_file", "bytes_nonzero"), strict=True):
            axis.errorbar(
                100 * (1 - row[column] / root[column]),
                100 * row["test_accuracy"],
                yerr=100 * (0 if math.isnan(row["test_accuracy_sd"]) else row["test_accuracy_sd"]),
                fmt=marker,
                color=colour,
                markersize=7,
                markeredgewidth=1.3,
                markerfacecolor=colour if "int8" in techniques else "white",
                capsize=2,
                label=label(row["node"]),
            )
    axes[0].set(xlabel="bytes saved (%), file as written", ylabel="test accuracy (%)")
    axes[1].set(xlabel="bytes saved (%), the paper's count")
    handles, names = axes[0].get_legend_handles_labels()
    handles = [container.lines[0] for container in handles]
    figure.legend(handles, names, loc="outside right center", fontsize=7.5, frameon=False)
    return figure


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
        "nonzeros × width kB": ("bytes_nonzero", 1e-3, 1),
        "sparse kB": ("bytes_sparse", 1e-3, 1),
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
    return f"{table}\nmean ± standard deviation over n = {int(summary['seeds'].max())} seeds"


def markdown_table(summary: pd.DataFrame, columns: list[str] | None = None) -> str:
    """:func:`display_table` (or some of its columns) in Markdown."""
    table = display_table(summary)
    table = table[columns] if columns else table
    lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" + "---:|" * (len(table.columns) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in table.itertuples(index=False))])
