"""Chapter 12's tables and sentences, of the rows that :mod:`studylib.screening.chapter` makes."""

import pandas as pd

from studylib.screening.analysis import ratios
from studylib.screening.chapter import MANY, MODERATE, SETS, SETS_ALONE, STEPS, STEPS_ALONE, TIGHT
from studylib.screening.compare import LOCAL


def shown(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The rows of :func:`studylib.screening.analysis.ratios` of a single λ or of paths, for a reader.

    Workers are two, or one without two.
    """
    rows = table[(table["lambdas"] == 1) == (kind == "single λ")]
    rows = rows[rows["workers"] == max((size for size in rows["workers"].unique() if size <= 2), default=0)]
    return pd.DataFrame(
        {
            "problem": row.problem,
            "λ / λ_max": f"{row.share:g}",
            "way": row.way,
            "workers": row.workers,
            "steps": row.steps,
            "features left": row.features,
            "nonzero": row.nonzero,
            "bytes": f"{row.bytes:.3f}",
            "time": f"{row.time:.2f}",
        }
        for row in rows.itertuples()
    )


def by_workers(table: pd.DataFrame, many: pd.DataFrame) -> pd.DataFrame:
    """Of each number of workers: the worst ratio of bytes and time of ``table``, and of ``many`` the largest distance.

    Args:
        table: of :func:`studylib.screening.analysis.ratios`.
        many: of :func:`studylib.screening.chapter.alike`.
    """
    rows = table[table["way"] == SETS]
    worst = rows.groupby("workers", sort=True)[["bytes", "time"]].max()
    strict = table[(table["way"] == STEPS) & (table["lambdas"] == 1)].groupby("workers")["time"]
    apart = many.groupby("workers")["apart"].max() if len(many) else {}
    return pd.DataFrame(
        {
            "workers": size,
            "bytes, worst": f"{row['bytes']:.3f}",
            "time, worst": f"{row['time']:.2f}",
            "time of steps, screening": "{:.2f} ({:.2f} to {:.2f})".format(
                *strict.agg(["mean", "min", "max"]).loc[size]
            ),
            "coefficients off one worker's": f"{apart[size]:.0e}" if size in apart else "–",
        }
        for size, row in worst.iterrows()
    )


def libraries_shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each library, and ours over its, for a reader."""
    found = []
    for (name, kind), part in rows.groupby(["problem", "kind"], sort=False):
        mine = part[part["library"] == "ours"]["seconds"].iloc[0]
        for row in part.itertuples():
            reached = "yes" if row.gap <= row.goal * (1 + 1e-9) else "no"
            over = f"{mine / row.seconds:.2f}" if reached == "yes" else "–"
            seconds = {"ms": f"{1000 * row.seconds:.1f}", "ours over it": over}
            found.append({"problem": name, "what": kind, "library": row.library} | seconds | {"gap reached": reached})
    return pd.DataFrame(found)


def modes_shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`studylib.screening.chapter.modes`, for a reader."""
    return pd.DataFrame(
        {
            "rows": f"{row.rows:,}",
            "p": f"{row.columns:,}",
            "λ / λ_max": f"{MODERATE:g}",
            "way": row.way,
            "workers are": row.mode,
            "steps or rounds": row.steps,
            "MB a worker": "–" if pd.isna(row.sent) else f"{row.sent / 1e6:.2f}",
            "s": f"{row.seconds:.2f}",
            "coefficients off working sets'": f"{row.apart:.0e}",
            "gap reached": "yes" if row.gap <= row.goal else "no",
        }
        for row in rows.itertuples()
    )


def modes_told(rows: pd.DataFrame) -> str:
    """The rows of :func:`studylib.screening.chapter.modes` in sentences."""
    if rows.empty:
        return "Local steps and threads were not compared."
    found = []
    for (n, p), part in rows.groupby(["rows", "columns"], sort=False):
        at = part.set_index(["way", "mode"])
        steps, local = at.loc[(STEPS, "processes")], at.loc[(LOCAL, "processes")]
        found.append(
            f"With {n:,} rows and {p:,} features local steps take {local['steps'] / steps['steps']:.1f} rounds for "
            f"each step of FISTA, and {local['sent'] / steps['sent']:.1f} times its bytes."
        )
    waits = rows[rows["way"] == LOCAL].pivot_table(index=["rows", "columns"], columns="mode", values="seconds")
    ratio = waits["threads, asynchronous"] / waits["threads"]
    between = f"{ratio.min():.2f} to {ratio.max():.2f}" if len(ratio) > 1 else f"{ratio.iloc[0]:.2f}"
    return f"{' '.join(found)} Threads that do not wait take {between} of the time of those that do."


def grown_shown(rows: pd.DataFrame) -> pd.DataFrame:
    """Megabytes and seconds by p, for a reader."""
    return pd.DataFrame(
        {"p": f"{row.columns:,}", "way": row.way, "features left": row.features}
        | {"MB a worker": f"{(row.sent + row.setup) / 1e6:.2f}", "s": f"{row.seconds:.2f}"}
        for row in rows.itertuples()
    )


def model_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`studylib.screening.analysis.modelled`, sets with screening and steps alone, for a reader."""
    rows = table[table["way"].isin([SETS, STEPS_ALONE])]
    return pd.DataFrame(
        {
            "problem": row.problem,
            "λ / λ_max": f"{row.share:g}",
            "way": row.way,
            "all-reduces": row.calls,
            "MB": f"{row.MB:.2f}",
            "1 worker, s": f"{row.compute:.2f}",
            "2 workers, s": f"{row.measured:.2f}",
            "2 by the model, s": f"{row.two:.2f}",
            f"{MANY} by the model, s": f"{row.many:.2f}",
        }
        for row in rows.itertuples()
    )


def lines_shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`studylib.screening.analysis.lines`, for a reader."""
    return pd.DataFrame(
        {
            "problem": row.problem,
            "λ / λ_max": f"{row.share:g}",
            "steps": row.step,
            "decades a hundred steps": f"{row.slope:.1f}",
            "explained %": f"{row.explained:.1f}",
            "until half are gone": "–" if pd.isna(row.early) else f"{row.early:.1f}",
            "from there": "–" if pd.isna(row.late) else f"{row.late:.1f}",
            "inactive gone before the last check %": f"{row.gone:.2f}",
        }
        for row in table.itertuples()
    )


def lossless_shown(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`studylib.screening.chapter.lossless`, for a reader."""
    return pd.DataFrame(
        {"problem": row.problem, "λ / λ_max": f"{row.share:g}", "solver": row.solver}
        | {"objective": f"{row.objective:.0e}", "coefficients": f"{row.apart:.0e}", "predictions": f"{row.scores:.0e}"}
        | {"other features": row.unlike, "gap reached": "yes" if row.gap <= row.goal else "no"}
        for row in rows.itertuples()
    )


def told(rows: pd.DataFrame) -> str:
    """What the rows of :func:`studylib.screening.chapter.measured` say of bytes, in sentences."""
    table = ratios(rows)
    single = table[(table["lambdas"] == 1) & (table["workers"] == max(k for k in table["workers"] if k <= 2))]
    sets, alone, steps = (
        single[single["way"] == way].sort_values("bytes").iloc[-1] for way in (SETS, SETS_ALONE, STEPS)
    )
    return (
        f"Working sets with screening send at most {100 * sets['bytes']:.1f} % of the bytes of steps alone "
        f"({sets['problem']}). Without discards the sets send {100 * alone['bytes']:.1f} %. Steps that only lose "
        f"discarded features send up to {100 * steps['bytes']:.0f} % ({steps['problem']}).{_on_paths(table)}"
    )


def _on_paths(table: pd.DataFrame) -> str:
    paths = table[(table["lambdas"] > 1) & (table["way"] == STEPS)]["time"]
    if paths.empty:
        return ""
    between = f"{paths.min():.2f} to {paths.max():.2f}" if paths.max() - paths.min() >= 0.005 else f"{paths.max():.2f}"
    return f" On a path these take {between} of the time of steps alone."


def lossless_told(rows: pd.DataFrame, many: pd.DataFrame) -> str:
    """The rows of :func:`studylib.screening.chapter.lossless` and ``alike`` in sentences."""
    more = f" {many['workers'].max()} workers change none by more than {many['apart'].max():.0e}." if len(many) else ""
    return (
        f"To a gap of {TIGHT:.0e}, discards change no coefficient by more than {rows['apart'].max():.0e} of the "
        f"largest, and predictions by {rows['scores'].max():.0e}.{more}"
    )


def lines_told(table: pd.DataFrame) -> str:
    """The rows of :func:`studylib.screening.analysis.lines` in sentences."""
    ratio = (table["late"] / table["early"]).dropna()
    between = f"{ratio.min():.1f} to {ratio.max():.1f}"
    faster = f" Once half of the features are gone it falls {between} times as fast as before." if len(ratio) else ""
    return (
        f"A straight line explains {table['explained'].min():.0f} to {table['explained'].max():.0f} % of the logarithm "
        f"of the gap.{faster} Before the last check at least {table['gone'].min():.1f} % of the inactive features are "
        "gone."
    )


def libraries_told(rows: pd.DataFrame) -> str:
    """How often ours is the fastest of the rows of :func:`studylib.screening.chapter.beside_libraries`."""
    if rows.empty:
        return "No problem was compared with other libraries."
    reached = rows["gap"] <= rows["goal"] * (1 + 1e-9)
    best = rows[reached].sort_values("seconds").groupby(["problem", "kind"]).head(1)["library"]
    ours, screened = best.str.startswith("ours").sum(), (best == "ours").sum()
    others = ", ".join(best[~best.str.startswith("ours")].unique())
    return (
        f"Of {len(best)} comparisons on one machine ours is the fastest in {ours}, in {screened} of them with screening"
        f"{f'. In the others it is {others}' * bool(others)}."
    )


def growth_told(rows: pd.DataFrame) -> str:
    """The rows of :func:`studylib.screening.chapter.grown` in a sentence."""
    if rows.empty:
        return "Growth with p was not measured."
    most = rows[rows["columns"] == rows["columns"].max()].set_index("way")
    size = (most["sent"] + most["setup"]) / 1e6
    return (
        f"With {rows['columns'].max():,} features, sets with screening send {size[SETS]:.1f} MB, "
        f"steps alone {size[STEPS_ALONE]:.1f} MB."
    )


def model_told(known: dict[str, float], model: pd.DataFrame) -> str:
    """The rows of :func:`studylib.screening.analysis.modelled` in sentences."""
    many = model.groupby("way")["many"].sum()
    off = (model["measured"] / model["two"]).dropna()
    wrong = f" Two workers took {off.min():.1f} to {off.max():.1f} times as long as it says." if len(off) else ""
    return (
        f"A message here has {1000 * known['latency']:.2f} ms of latency. By the model {MANY} workers so linked need "
        f"{many[SETS]:.0f} s for all single problems with sets and screening, {many[STEPS_ALONE]:.0f} s with steps "
        f"alone.{wrong} What saves is fewer all-reduces."
    )
