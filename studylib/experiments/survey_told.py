"""What chapter 9's rows say: each technique beside narrower networks of as many bytes, leaks, tables and sentences."""

import pandas as pd

from studylib.experiments import sweep_narrower, zoo
from studylib.experiments.survey import CONTROL, TECHNIQUES, WHOLE
from studylib.results import claims, statistics
from studylib.results.tables import plus_minus


def at_equal_bytes(rows: pd.DataFrame) -> pd.DataFrame:
    """How far each technique lies above the narrower networks at equal bytes, seed by seed.

    Their accuracy is interpolated over the logarithm of bytes, float32 and int8 each a line, and the better counts.

    Args:
        rows: of :func:`compared`.

    Returns:
        A row per technique in the order of ``rows``: technique, kind, means of before, accuracy, bytes, multiply_adds
        and latency_ms; sd of the accuracy; margin (points) with low and high, Student's 95 % interval (NaN of one
        seed, or where every narrower network is larger); verdict, a word of studylib.experiments.sweep_narrower.
    """
    rivals = rows[rows["kind"] == CONTROL].rename(columns={"kind": "control", "form": "kind"})
    found = []
    for key, part in rows[rows["kind"] != CONTROL].groupby("technique", sort=False):
        best = [
            sweep_narrower.at_equal_cost(rivals[rivals["seed"] == row.seed], "bytes", "accuracy", row.bytes)
            for row in part.itertuples()
        ]
        above = 100 * (part["accuracy"] - best)
        low, high = statistics.t_interval(above) if len(above) > 1 else (float("nan"), float("nan"))
        verdict = statistics.judge((low, high)) if len(above) > 1 else statistics.UNKNOWN
        mean = part[["before", "accuracy", "bytes", "multiply_adds", "latency_ms"]].astype(float).mean()
        row = {"technique": key, "kind": part["kind"].iloc[0], **mean, "sd": part["accuracy"].std(), "n": len(part)}
        row |= {"margin": above.mean(), "low": low, "high": high}
        found.append(
            {**row, "verdict": sweep_narrower.WORDS[verdict] if above.notna().all() else sweep_narrower.TOO_SMALL}
        )
    return pd.DataFrame(found)


def rivals(rows: pd.DataFrame) -> pd.DataFrame:
    """The narrower networks of :func:`compared`, means over the seeds: rows of form, technique, bytes, accuracy."""
    control = rows[rows["kind"] == CONTROL]
    return control.groupby(["form", "technique"], sort=False)[["bytes", "accuracy"]].mean().reset_index()


def told(table: pd.DataFrame, points: float = 1.0) -> dict[str, str]:
    """What the rows of :func:`at_equal_bytes` say, a sentence each.

    Returns:
        smallest (file within ``points`` of the network as trained), costs (the most and the least accurate),
        verdicts (who beats narrower networks and who is beaten).
    """
    dense, rest = table[table["technique"] == WHOLE].iloc[0], table[table["technique"] != WHOLE]
    close = rest[100 * rest["accuracy"] >= 100 * dense["accuracy"] - points].sort_values("bytes")
    best, worst = rest.loc[rest["accuracy"].idxmax()], rest.loc[rest["accuracy"].idxmin()]
    found = {"smallest": f"No technique stays within {points:g} points of the network as trained."}
    if len(close):
        row = close.iloc[0]
        found["smallest"] = (
            f"Of all that stay within {points:g} points of the network as trained, {row['technique']} is the smallest: "
            f"{row['bytes'] / 1000:.1f} kB of {dense['bytes'] / 1000:.1f}, {100 * row['accuracy']:.1f} %."
        )
    found["costs"] = (
        f"The most accurate is {best['technique']} ({100 * best['accuracy']:.1f} %), the least {worst['technique']} "
        f"({100 * worst['accuracy']:.1f} %). As trained it is {100 * dense['accuracy']:.1f} %."
    )
    verdicts = {
        verdict: ", ".join(rest[rest["verdict"] == verdict]["technique"]) or "none"
        for verdict in (sweep_narrower.BEATS, sweep_narrower.BEATEN)
    }
    found["verdicts"] = (
        f"Above narrower networks of as many bytes: {verdicts[sweep_narrower.BEATS]}. Below them: "
        f"{verdicts[sweep_narrower.BEATEN]}. Of the others that cannot be told (n = {table['n'].max()} seeds)."
    )
    return found


def claims_of(models: pd.DataFrame) -> dict[str, claims.Measured]:
    """The survey's two averages beside those over the rows ``models`` of :func:`studylib.experiments.zoo.rows`."""
    means = zoo.shares(models)[["dynamic %", "static %"]].astype(float).mean()
    return {"zoo_dynamic": claims.Measured(means["dynamic %"]), "zoo_static": claims.Measured(means["static %"])}


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`at_equal_bytes` in words, for a reader."""
    dense = table[table["technique"] == WHOLE].iloc[0]
    rows = []
    for row in table.itertuples():
        title = TECHNIQUES[row.technique].title if row.technique in TECHNIQUES else row.technique
        margin = "–" if pd.isna(row.margin) else f"{row.margin:+.1f}"
        margin += "" if pd.isna(row.low) else f" ({row.low:+.1f} to {row.high:+.1f})"
        rows.append(
            {
                "technique": title,
                "stage": row.technique if row.technique in TECHNIQUES else "–",
                "file kB": f"{row.bytes / 1000:.1f}",
                "saved %": f"{100 * (1 - row.bytes / dense.bytes):.1f}",
                "before %": f"{100 * row.before:.1f}",
                "after %": plus_minus(100 * row.accuracy, 100 * row.sd, 1),
                "million multiply-adds": f"{row.multiply_adds / 1e6:.2f}",
                "ms a batch": f"{row.latency_ms:.1f}",
                "over narrower, points": margin,
                "verdict": row.verdict if row.technique != WHOLE else "–",
            }
        )
    return pd.DataFrame(rows)
