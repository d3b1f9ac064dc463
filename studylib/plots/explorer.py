"""The explorer: rows of networks as one HTML file with a chart, filters and a table. It opens without a server."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

COLUMNS = ["study", "data", "node", "network", "kind", "techniques", "distilled", "pruned", "factorized", "bits"]
COLUMNS += ["zeros", "accuracy", "accuracy_sd", "validation", "bytes", "bytes_nonzero", "multiply_adds", "latency_ms"]
COLUMNS += ["latency_of", "seeds", "file", "file_alone", "command"]
BOTH = " and "  # between the studies of a row of several
TEMPLATE = Path(__file__).with_suffix(".html")
EITHER = {"true": "with", "false": "without"}
FILTERS = {  # column → label, its values in words if they are no words themselves
    "data": ("Data", None),
    "study": ("Study", None),
    "network": ("Network", None),
    "bits": ("Bits of a weight", {"32": "32 (not quantized)", "8": "8 (int8)"}),
    "distilled": ("Distillation", EITHER),
    "pruned": ("Pruning", EITHER),
    "factorized": ("SVD", EITHER),
}
COLOURS = ["#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#56b4e9", "#949494", "#ece133"]
SHAPES = ["circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-left", "triangle-right"]
STAR = "M0,-1L.22,-.31L.95,-.31L.36,.12L.59,.81L0,.38L-.59,.81L-.36,.12L-.95,-.31L-.22,-.31Z"
HOVER = {  # field → what it is called
    "network": "network",
    "techniques": "techniques",
    "node": "node",
    "study": "study",
    "validated": "validation accuracy",
    "percent": "test accuracy",
    "file_bytes": "file",
    "paper_bytes": "nonzeros × width",
    "adds": "multiply-adds",
    "latency": "latency",
    "seeds": "seeds",
    "alone": "published file",
    "command": "evaluate it",
}
TICKS = [step * 10**power for power in range(1, 10) for step in (1, 2, 5)]  # bytes
FONT = "system-ui, sans-serif"
LARGE = {"labelFontSize": 12, "titleFontSize": 12}
STACKED = {"bottom": {"anchor": "start", "direction": "vertical", "margin": 4}}  # legends, one below the other
DASH = "–"


def page(
    rows: pd.DataFrame,
    marks: Sequence,
    marked: str,
    title: str = "Accuracy against bytes",
    back: Sequence[str] | None = None,
) -> str:
    """The whole page as HTML: it holds its scripts, asks for nothing from outside, and forbids the browser to.

    Args:
        rows: one for each network, :data:`COLUMNS`: accuracies, their deviation and zeros in %, latency in ms.
            Validation accuracies, where they are known, choose; test accuracies are shown.
        marks: of :func:`studylib.experiments.frontier_marks.of_data`, drawn as stars.
        marked: the data set that the marks are of.
        title: its heading.
        back: address and name of the page that this one belongs to, which it links; nothing where it is alone.

    Raises:
        ValueError: there are no rows, or they lack columns.
    """
    if missing := [column for column in COLUMNS if column not in rows] or ["rows"] * rows.empty:
        raise ValueError(f"rows without {', '.join(missing)}: expected one for each network with {', '.join(COLUMNS)}")
    import jinja2
    import vl_convert

    shown, stars = shown_rows(rows), mark_rows(marks, marked) if marked in set(rows["data"]) else []
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        TEMPLATE.read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        back=back,
        both=BOTH,
        rows=shown,
        marks=stars,
        marked=marked,
        filters=filters(rows, marked),
        spec=chart(shown, stars, first(rows, marked)),
        script=vl_convert.javascript_bundle().replace("</script", "<\\/script"),
    )


def first(rows: pd.DataFrame, marked: str) -> str:
    """The data set that is shown first: ``marked``, or that of the first row where there is none of it."""
    return marked if marked in set(rows["data"]) else rows["data"].iloc[0]


def filters(rows: pd.DataFrame, marked: str) -> list[dict]:
    """The page's filters: name, label, options as (value, text), chosen; only of data is there no "all"."""
    found = []
    for name, (label, words) in FILTERS.items():
        there = rows[name].astype(str).str.split(BOTH).explode().unique()
        values = sorted(there, key=int, reverse=True) if name == "bits" else sorted(there)
        values = list(EITHER) if words is EITHER else values
        options = [] if name == "data" else [("", "all")]
        options += [(value, (words or {}).get(value, value)) for value in values]
        found.append({"name": name, "label": label, "options": options})
    return [each | {"chosen": first(rows, marked) if each["name"] == "data" else ""} for each in found]


def shown_rows(rows: pd.DataFrame) -> list[dict]:
    """``rows``, smallest file first, as JSON has them, with texts for people: of bytes, latency, …"""
    rows = rows.sort_values(["data", "bytes", "validation"], ascending=[True, True, False], kind="stable")
    found = json.loads(rows.to_json(orient="records", double_precision=12))
    for i, row in enumerate(found):
        sd = "" if row["accuracy_sd"] is None else f" ± {row['accuracy_sd']:.2f}"
        row |= {
            "id": i,
            "percent": f"{row['accuracy']:.2f}{sd} %",
            "validated": "not known" if row["validation"] is None else f"{row['validation']:.2f} %",
            "file_bytes": _bytes(row["bytes"]),
            "paper_bytes": _bytes(row["bytes_nonzero"]),
            "adds": DASH if row["multiply_adds"] is None else f"{_three(row['multiply_adds'] / 1e6)} million",
            "latency": DASH if row["latency_ms"] is None else f"{_three(row['latency_ms'])} ms ({row['latency_of']})",
            "alone": f"{row['file'] or 'none'}{', ' if row['file_alone'] else ''}{row['file_alone'] or ''}",
        }
    return found


def _bytes(count: float | None) -> str:
    return DASH if count is None else f"{count:,.0f} bytes"


def _three(number: float) -> str:
    """A number to three figures, without an exponent."""
    return f"{float(f'{number:.3g}'):,.10g}"


def mark_rows(marks: Sequence, marked: str) -> list[dict]:
    """What others have reported as JSON has it: data, label, whose, accuracy in %, bytes, counted, estimate."""
    return [
        {
            "data": marked,
            "label": "estimate" if mark.estimate else mark.whose.partition(",")[0],
            "whose": mark.whose,
            "accuracy": mark.accuracy,
            "bytes": mark.bytes,
            "percent": f"{mark.accuracy:g} %",
            "about": f"{mark.bytes / 1000:g} kB",
            "counted": mark.counted,
            "estimate": mark.estimate,
        }
        for mark in marks
    ]


def chart(shown: list[dict], marks: list[dict], data: str) -> dict:
    """The chart by Vega-Lite: its parameters ``f_<filter>``, ``f_least`` (%) and ``f_front`` say what is shown.

    ``front`` says of a row that it is on the Pareto front of those shown, by validation accuracy. The running maximum
    over rows sorted by bytes gives it. A row whose validation accuracy is not known is not on it, nor held by f_least.

    Args:
        shown: of :func:`shown_rows`.
        marks: of :func:`mark_rows`.
        data: the data set shown first.
    """
    import altair as alt

    chosen = [alt.param(name=f"f_{name}", value=data if name == "data" else "") for name in FILTERS]
    chosen += [alt.param(name="f_least", value=0), alt.param(name="f_front", value=False)]
    wanted = [f"(!f_{name} || indexof(split(toString(datum.{name}), '{BOTH}'), f_{name}) >= 0)" for name in FILTERS]
    points = (
        alt.Chart(alt.NamedData("networks"))
        .transform_filter(" && ".join([*wanted, "datum.validation >= f_least"]))
        .transform_calculate(known="isValid(datum.validation) ? datum.validation : -1")
        .transform_window(
            best="max(known)",
            sort=[alt.SortField("bytes"), alt.SortField("known", order="descending")],
            frame=[None, 0],
        )
        .transform_joinaggregate(least="min(bytes)", groupby=["best"])
        .transform_calculate(front="datum.validation === datum.best && datum.bytes === datum.least")
        .transform_filter("!f_front || datum.front")
    )
    kinds, bits = (
        list(dict.fromkeys(row["kind"] for row in shown)),
        sorted({row["bits"] for row in shown}, reverse=True),
    )
    colours = alt.Scale(domain=kinds, range=[COLOURS[i % len(COLOURS)] for i in range(len(kinds))])
    shapes = alt.Scale(domain=bits, range=[SHAPES[i % len(SHAPES)] for i in range(len(bits))])
    below = {"orient": "bottom", "direction": "horizontal", "symbolFillColor": "#888"}
    x = alt.X("bytes:Q", title="file, kB of 1,000 bytes").scale(type="log", nice=False, padding=12)
    x = x.axis(labelExpr="format(datum.value / 1000, '~r')", values=TICKS, labelOverlap=True)
    y = alt.Y("accuracy:Q", title="test accuracy, %").scale(zero=False, nice=False, padding=12)
    line = points.transform_filter("datum.front").mark_line(interpolate="step-after", color="#888", aria=False)
    line = line.encode(x, y, order="bytes:Q")
    dots = points.mark_point(filled=True, size=70, opacity=0.9, aria=False).encode(
        x,
        y,
        color=alt.Color("kind:N", title="network")
        .scale(colours)
        .legend(**below, columns=alt.expr("width < 500 ? 2 : 6")),
        shape=alt.Shape("bits:N", title="bits of a weight").scale(shapes).legend(**below),
        tooltip=[alt.Tooltip(f"{field}:N", title=title) for field, title in HOVER.items()],
    )
    others = alt.Chart(alt.NamedData("marks")).transform_filter("datum.data === f_data")
    stars = others.mark_point(shape=STAR, size=110, color="#888", filled=True, aria=False).encode(
        x,
        y,
        fillOpacity=alt.condition("datum.estimate", alt.value(0), alt.value(1)),
        tooltip=[
            alt.Tooltip("whose:N", title="reported by"),
            alt.Tooltip("percent:N", title="test accuracy"),
            alt.Tooltip("about:N", title="bytes"),
            alt.Tooltip("counted:N", title="what they count"),
        ],
    )
    labels = others.mark_text(align="left", dx=8, dy=-6, aria=False).encode(x, y, text="label:N")
    whole = alt.layer(line, dots, stars.properties(name="others"), labels).add_params(*chosen)
    whole = whole.properties(width="container", height=420, background="transparent", padding=2)
    look = {"font": FONT, "axis": LARGE, "legend": LARGE | {"padding": 4}, "view": {"stroke": None}}
    spec = whole.configure(**look).to_dict()
    spec["config"]["legend"]["layout"] = STACKED  # Vega knows it, Vega-Lite's schema does not
    return spec | {"datasets": {"networks": shown, "marks": marks}}
