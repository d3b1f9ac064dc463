"""What chapter 9's rows say: each technique beside narrower networks of as many bytes, work, leaks, sentences."""

import dataclasses
import math
from collections.abc import Callable

import pandas as pd

from studylib.experiments import one_layer, sweep_narrower, zoo
from studylib.experiments.energy import COUNTRY
from studylib.experiments.survey import CONTROL, PRUNING, TECHNIQUES, TIMED, WHOLE
from studylib.results import claims, statistics
from studylib.results.tables import plus_minus
from studylib.tree.published import Published

ENDS = {WHOLE: "float32", "int8": "int8"}  # technique → the line that it ends
FEW = 5  # percent of the bytes: where hardware-aware int8 saves less it has rounded hardly any layer
ONE_OF_THEM = "is one of them"  # the network as trained and in int8, at the end of the lines of narrower ones
MEANS = ["before", "accuracy", "bytes", "multiply_adds", "auc", *TIMED]


def at_equal_bytes(rows: pd.DataFrame) -> pd.DataFrame:
    """How far each technique lies above the narrower networks at equal bytes, seed by seed.

    Their accuracy is interpolated over the logarithm of bytes, each form a line. The better in the mean counts.
    The network as trained ends the one line and its int8 form the other, where it was made. Beyond its end a line keeps
    its accuracy.

    Args:
        rows: of :func:`studylib.experiments.survey.compared`.

    Returns:
        A row per network and technique in the order of ``rows``: network, technique, kind, means of :data:`MEANS`.
        Then sd of the accuracy; n, how many seeds. The margin (points) with low and high, Student's 95 % interval.
        They are NaN of one seed, where every narrower network is larger, and at the end of a line. The verdict: a word
        of sweep_narrower, or :data:`ONE_OF_THEM`.
    """
    found, lines = [], _lines(rows).rename(columns={"kind": "control", "form": "kind"})
    for (network, key), part in rows[rows["kind"] != CONTROL].groupby(["network", "technique"], sort=False):
        control = lines[lines["network"] == network]
        best = sweep_narrower.of_each_seed(control, "bytes", "accuracy", part)
        above = 100 * (part["accuracy"] - best) if key not in ENDS else pd.Series(math.nan, part.index)
        low, high = statistics.t_interval(above)
        verdict = statistics.UNKNOWN if math.isnan(low) else statistics.judge((low, high))
        row = {"network": network, "technique": key, "kind": part["kind"].iloc[0]}
        means = part.reindex(columns=MEANS).astype(float).mean()
        row |= {**means, "sd": part["accuracy"].std(), "n": len(part)}
        row |= {"margin": above.mean(), "low": low, "high": high}
        row["verdict"] = sweep_narrower.WORDS[verdict] if above.notna().all() else sweep_narrower.TOO_SMALL
        row["verdict"] = ONE_OF_THEM if key in ENDS else row["verdict"]
        found.append(row)
    return pd.DataFrame(found)


def of_published(published: Published | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """:func:`at_equal_bytes` and :func:`rivals` of another published study; no rows where this copy lacks it."""
    if not published:
        return pd.DataFrame(columns=["network"]), pd.DataFrame(columns=["network"])
    rows = published.rows("techniques")
    return at_equal_bytes(rows), rivals(rows)


def drawn_by(draw: Callable) -> Callable:
    """``draw`` (table, rivals) for rows as they are published."""
    return lambda rows: draw(at_equal_bytes(rows), rivals(rows))


def _lines(rows: pd.DataFrame) -> pd.DataFrame:
    ends = rows[rows["technique"].isin(list(ENDS))]
    return pd.concat([rows[rows["kind"] == CONTROL], ends.assign(form=ends["technique"].map(ENDS))])


def rivals(rows: pd.DataFrame) -> pd.DataFrame:
    """The narrower networks of the rows, and the network that ends each line, means over the seeds.

    Returns:
        network, form, technique, bytes, accuracy.
    """
    control = _lines(rows)
    return control.groupby(["network", "form", "technique"], sort=False)[["bytes", "accuracy"]].mean().reset_index()


def leaks(rows: pd.DataFrame) -> pd.DataFrame:
    """What membership inference gains by a technique: its AUC less that of the network as trained, seed by seed.

    Returns:
        A row per network and technique: network, technique, kind, auc (mean, 0…1). The change with low and high: points
        of AUC, Student's 95 % interval, NaN of one seed. The verdict: leaks more, leaks less or cannot tell.
    """
    words = {statistics.HELP: "leaks more", statistics.HURT: "leaks less", statistics.UNKNOWN: statistics.UNKNOWN}
    dense = rows[rows["kind"] == WHOLE].set_index(["network", "seed"])["auc"]
    found = []
    for (network, key), part in rows[~rows["kind"].isin([CONTROL, WHOLE])].groupby(
        ["network", "technique"], sort=False
    ):
        change = 100 * (
            part.set_index(["network", "seed"])["auc"] - dense.loc[network].reindex(part["seed"]).to_numpy()
        )
        low, high = statistics.t_interval(change)
        word = words[statistics.UNKNOWN if math.isnan(low) else statistics.judge((low, high))]
        row = {"network": network, "technique": key, "kind": part["kind"].iloc[0], "auc": part["auc"].mean()}
        found.append(row | {"change": change.mean(), "low": low, "high": high, "verdict": word})
    return pd.DataFrame(found)


def claims_of(rows: pd.DataFrame, models: pd.DataFrame, layers: pd.DataFrame) -> dict[str, claims.Measured | list]:
    """The survey's claims: its averages over each list of ``models``, one layer's saving, leaks by kind of technique.

    Args:
        rows: of :func:`studylib.experiments.survey.compared`.
        models: of :func:`studylib.experiments.zoo.rows`.
        layers: of :func:`studylib.experiments.one_layer.measured`.
    """
    dense = rows[rows["kind"] == WHOLE].groupby("seed")["auc"].mean()
    changes = []
    for kind in dict.fromkeys(each.kind for each in TECHNIQUES.values()):
        if len(part := rows[rows["kind"] == kind]):
            change = 100 * (part.groupby("seed")["auc"].mean() - dense)
            keys = part["technique"].unique()
            by = kind if len(keys) > 1 else TECHNIQUES[keys[0]].title
            interval, against = statistics.t_interval(change), f"network as trained, by {by}"
            changes.append(claims.Measured(change.mean(), *interval, n=len(change), against=against))
    return {
        **{f"zoo_{way}": _averages(models, f"{way} %") for way in ("dynamic", "static")},
        "one_layer": one_layer.claimed(layers),
        "leaks": changes,
    }


def _averages(models: pd.DataFrame, saved: str) -> list[claims.Measured]:
    return [
        claims.Measured(part[saved].astype(float).mean(), against=f"survey's twelve, by {title}")
        for title, part in zoo.parts(models).items()
    ]


def told(table: pd.DataFrame, points: float = 1.0) -> list[str]:
    """What the rows of :func:`at_equal_bytes` say of each network: what is small and good, who beats narrower ones."""
    found, near = [], "a point" if points == 1 else f"{points:g} points"
    for network, part in table.groupby("network", sort=False):
        dense, rest = part[part["technique"] == WHOLE].iloc[0], part[part["technique"] != WHOLE]
        close = rest[100 * rest["accuracy"] >= 100 * dense["accuracy"] - points].sort_values("bytes")
        smallest = f"no technique stays within {near} of it"
        if len(close):
            row = close.iloc[0]
            smallest = (
                f"of all that stay within {near} of it, {row['technique']} is the smallest "
                f"({row['bytes'] / 1000:.1f} kB, {100 * row['accuracy']:.1f} %)"
            )
        by = {verdict: list(rest[rest["verdict"] == verdict]["technique"]) for verdict in rest["verdict"].unique()}
        named = {verdict: ", ".join(by.get(verdict, [])) or "none" for verdict in sweep_narrower.WORDS.values()}
        found.append(
            f"{network}, {dense['bytes'] / 1000:.1f} kB and {100 * dense['accuracy']:.1f} % as trained: {smallest}. "
            f"Better than narrower networks of as many bytes: {named[sweep_narrower.BEATS]}. "
            f"Worse: {named[sweep_narrower.BEATEN]}. Cannot be told: {named[statistics.UNKNOWN]}."
        )
    return found


def leaks_told(found: pd.DataFrame, rows: pd.DataFrame) -> str:
    """The rows of :func:`leaks` in sentences, after the attack's AUC on each network as trained.

    Args:
        rows: of :func:`studylib.experiments.survey.compared`, for the AUC of narrower networks.
    """
    counts = found["verdict"].value_counts()
    start = (found["auc"] - found["change"] / 100).groupby(found["network"], sort=False).first()
    said = ", ".join(f"{auc:.3f} on {network}" for network, auc in start.items())
    less, more, alike = (counts.get(word, 0) for word in ("leaks less", "leaks more", statistics.UNKNOWN))
    worse = found[found["verdict"] == "leaks more"]
    named = ", ".join(f"{row.technique} of {row.network}" for row in worse.itertuples())
    named = f" ({named})" if named else ""
    return (
        f"The attack's AUC as trained is {said}; 0.5 is a guess. "
        f"Of {less + more + alike} compressed networks {less} leak less than as trained, {more} more{named}; "
        f"of {alike} one cannot tell.{_narrower_leak(rows)}"
    )


def _narrower_leak(rows: pd.DataFrame) -> str:
    auc = rows[rows["kind"] == CONTROL].groupby(["network", "technique", "form"])["auc"].mean()
    return f" Of narrower networks it is {auc.min():.3f} to {auc.max():.3f}." if len(auc) else ""


def settings_shown(chosen: dict[str, object]) -> pd.DataFrame:
    """The settings of each technique (:meth:`studylib.experiments.survey.Survey.chosen`), for a reader."""
    return pd.DataFrame(
        {"stage": key, "settings": ", ".join(f"{name} {value}" for name, value in dataclasses.asdict(each).items())}
        for key, each in chosen.items()
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Bytes and accuracy in the rows of :func:`at_equal_bytes` of one network, for a reader."""
    dense = table[table["technique"] == WHOLE].iloc[0]
    return pd.DataFrame(
        {
            **_named(row),
            "file kB": f"{row.bytes / 1000:.1f}",
            "saved %": f"{100 * (1 - row.bytes / dense.bytes):.1f}",
            "before %": f"{100 * row.before:.1f}",
            "after %": plus_minus(100 * row.accuracy, 100 * row.sd, 1),
            "over narrower, points": _with_interval(row.margin, row.low, row.high),
            "verdict": row.verdict if row.technique != WHOLE else "–",
        }
        for row in table.itertuples()
    )


def rivals_shown(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`rivals` of one network, for a reader."""
    return pd.DataFrame(
        {"network": row.technique.replace("int8", WHOLE), "form": row.form, "file kB": f"{row.bytes / 1000:.1f}"}
        | {"after %": f"{100 * row.accuracy:.1f}"}
        for row in found.sort_values(["form", "bytes"]).itertuples()
    )


def work(table: pd.DataFrame) -> pd.DataFrame:
    """Multiply-adds, time and energy in the rows of :func:`at_equal_bytes` of one network, for a reader."""
    dense = table[table["technique"] == WHOLE].iloc[0]
    found = pd.DataFrame(
        {
            **_named(row),
            "million multiply-adds": f"{row.multiply_adds / 1e6:.3f}",
            "ms a batch": f"{row.latency_ms:.1f}",
            "time": f"{row.latency_ms / row.whole_ms:.2f}",
            "multiply-adds × time": f"{row.multiply_adds * row.latency_ms / (dense.multiply_adds * row.whole_ms):.2f}",
            "mJ a batch": f"{1000 * row.joules:.0f}",
            "µg CO₂": f"{1000 * row.co2_mg:.1f}",
        }
        for row in table.itertuples()
    )
    return found if table["joules"].notna().any() else found.drop(columns=["mJ a batch", "µg CO₂"])


def energy_told(table: pd.DataFrame) -> str:
    """How far times can be trusted, and where the energy comes from: codecarbon's estimate, or that there is none."""
    dense = table[table["technique"] == WHOLE].set_index("network")
    same = table[(table["kind"] == PRUNING) & (table["multiply_adds"] == table["network"].map(dense["multiply_adds"]))]
    said = ""
    if len(same):
        ratio = same["latency_ms"] / same["whole_ms"]
        said = (
            "Zeros alone change nothing that dense kernels do. Yet networks with zeros took "
            f"{ratio.min():.2f} to {ratio.max():.2f} of the time as trained: a smaller difference says nothing here. "
        )
    said += _hardware_told(table, dense)
    if table["joules"].isna().all():
        return f"{said}codecarbon is not installed: no energy is estimated."
    return f"{said}Energy and CO₂ are codecarbon's estimates, no measurements; CO₂ is of the mean grid of {COUNTRY}."


def _hardware_told(table: pd.DataFrame, dense: pd.DataFrame) -> str:
    """What came of layers that were chosen because they ran faster in int8, alone."""
    chosen = table[table["technique"] == "hardware"]
    ratio = chosen["latency_ms"] / chosen["whole_ms"]
    if ratio.dropna().empty:
        return ""
    saved = 100 * (1 - chosen["bytes"] / chosen["network"].map(dense["bytes"]))
    none = "hardly any layer was faster in int8. " if saved.max() < FEW else "its layers were chosen one by one. "
    return (
        f"Hardware-aware int8 saved {saved.min():.1f} to {saved.max():.1f} % of the bytes and took "
        f"{ratio.min():.2f} to {ratio.max():.2f} of the time as trained: {none}"
    )


def _named(row) -> dict:
    known = TECHNIQUES.get(row.technique)
    return {"technique": known.title if known else row.technique, "stage": row.technique if known else "–"}


def _with_interval(value: float, low: float, high: float) -> str:
    said = "–" if math.isnan(value) else f"{value:+.2f}"
    return said if math.isnan(low) else f"{said} ({low:+.2f} to {high:+.2f})"
