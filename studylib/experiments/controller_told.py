"""What chapter 14's rows say: tables, hypervolumes, claims, sentences."""

import math

import numpy as np
import pandas as pd

from studylib.experiments.controller import GUIDED, WAYS, best_values
from studylib.experiments.moo_hypervolume import hypervolume
from studylib.results import claims, statistics
from studylib.results.tables import plus_minus
from studylib.tree.published import Published

WORDS = {statistics.HELP: "more", statistics.HURT: "less"}
STAGES = {"unmasked": "unmasked", "masked": "masked", "sliced": "sliced", "tuned": "fine-tuned"}
NEAR = 0.02  # of a budget, a share of all multiply-adds
WIDE = 0.02  # off a budget, a share of it: what the chapter counts as missed


def by_value(table: pd.DataFrame) -> pd.DataFrame:
    """A row per way, in words: its setting, and each value with its validation accuracy, the best in bold."""
    rows, best = [], best_values(table.to_dict("records"))
    for way, part in table.groupby("way", sort=False):
        marks = ["**" if value == best[way] else "" for value in part["value"]]
        values = zip(marks, part["value"], part["val_accuracy"], strict=True)
        found = ", ".join(f"{bold}{value:g}: {100 * accuracy:.1f}{bold}" for bold, value, accuracy in values)
        rows.append({"way": way, "setting": WAYS[way][0], "value: validation %": found})
    return pd.DataFrame(rows)


def at_an_end(table: pd.DataFrame) -> str:
    """The ways whose best value, or one as good, is the least or the largest of those tried."""
    most = table.groupby("way")["val_accuracy"].transform("max")
    best = table[table["val_accuracy"] == most].groupby("way", sort=False)["value"].agg(["min", "max"])
    ends = table.groupby("way")["value"].agg(["min", "max"]).loc[best.index]
    return ", ".join(best.index[(best["min"] == ends["min"]) | (best["max"] == ends["max"])]) or "none"


def by_budget(table: pd.DataFrame) -> pd.DataFrame:
    """A row per budget and way, for a reader: multiply-adds, bytes, seconds of training, and accuracy.

    Means and deviations over seeds; by how much the controller is more accurate, with Student's interval over seeds.
    A dash stands for seconds that hold those of what the chapter measures along training.
    """
    rows, accuracy = [], 100 * table.pivot(index="seed", columns=["budget", "way"], values="accuracy")
    for (budget, way), part in table.groupby(["budget", "way"], sort=False):
        gain = (accuracy[budget, GUIDED] - accuracy[budget, way]).to_numpy()
        off = 100 * (part["share"] - budget).abs().max()
        untuned = "–" if part["untuned"].isna().all() else f"{100 * part['untuned'].astype(float).mean():.1f}"
        rows.append(
            {
                "budget %": f"{100 * budget:g}",
                "way": way,
                "multiply-adds %": f"{100 * part['share'].mean():.1f}",
                "furthest off, points": f"{off:.2f}",
                "file kB": f"{part['bytes'].mean() / 1000:.1f}",
                "training s": f"{part['cpu_seconds'].mean():.1f}" if way != GUIDED or timed(table) else "–",
                "untuned %": untuned,
                "accuracy %": plus_minus(100 * part["accuracy"].mean(), 100 * part["accuracy"].std(), 1),
                "controller less it, points": "–" if way == GUIDED else told_by(gain),
            }
        )
    return pd.DataFrame(rows)


def timed(table: pd.DataFrame) -> bool:
    """Whether the controller's seconds are those of training alone."""
    return "watch_seconds" in table


def volumes(table: pd.DataFrame, classes: int) -> pd.DataFrame:
    """Hypervolume of each way and seed (a table seed × way), in % of the plane.

    The axes are log₂(1 / budget of multiply-adds) and the accuracy. The reference point is the whole network at chance.
    100 % would be full accuracy at the least of the budgets. A budget stands for the multiply-adds that were met. A
    channel more or less would change the volume more than ways differ.
    """
    plane = -math.log2(table["budget"].min()) * (1 - 1 / classes)
    depth = -table["budget"].map(math.log2)
    pairs = table.assign(point=list(zip(depth, table["accuracy"], strict=True)))
    found = pairs.groupby(["seed", "way"], sort=False)["point"].apply(lambda each: hypervolume(each, (0, 1 / classes)))
    return 100 * found.unstack("way")[list(dict.fromkeys(table["way"]))] / plane


def against(volumes: pd.DataFrame, ours: str = GUIDED) -> pd.DataFrame:
    """Each way's mean volume and sd; the gain of ``ours`` over it, with Student's interval at 95 % over seeds.

    ``verdict`` is "more" where the volume of ``ours`` is more than the way's, "less", or "cannot tell".
    """
    found = []
    for way in volumes.columns:
        gain = (volumes[ours] - volumes[way]).to_numpy()
        low, high = statistics.t_interval(gain)
        verdict = statistics.judge((low, high))
        row = {"way": way, "mean": volumes[way].mean(), "sd": volumes[way].std(), "gain": gain.mean()}
        word = "–" if way == ours else WORDS.get(verdict, verdict)
        found.append(row | {"low": low, "high": high, "verdict": word, "seeds": len(gain)})
    return pd.DataFrame(found)


def dominated(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`against` for a reader."""
    return pd.DataFrame(
        {
            "way": row.way,
            "dominated %": plus_minus(row.mean, row.sd, 1),
            "controller less it, points": "–" if row.way == GUIDED else interval(row.gain, row.low, row.high),
            "verdict": row.verdict,
        }
        for row in found.itertuples()
    )


def volumes_of(networks: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """:func:`against` of rows as they are published, ``classes`` the table of their number."""
    return against(volumes(networks, int(classes["classes"].iloc[0])))


def dominated_of(networks: pd.DataFrame, classes: pd.DataFrame) -> pd.DataFrame:
    """:func:`dominated` of rows as they are published."""
    return dominated(volumes_of(networks, classes))


def interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """A value with a sign, and its interval where there is one; a dash where nothing was measured."""
    if math.isnan(value):
        return "–"
    said = f"{value:+.{digits}f}"
    return said if math.isnan(low) else f"{said} ({low:+.{digits}f} to {high:+.{digits}f})"


def told_by(gain: np.ndarray) -> str:
    """The mean of ``gain`` (seeds,) with Student's interval, bold where that has not both signs."""
    low, high = statistics.t_interval(gain)
    said = interval(gain.mean(), low, high)
    return said if statistics.judge((low, high)) == statistics.UNKNOWN else f"**{said}**"


def change(table: pd.DataFrame, first: str, second: str) -> tuple[float, float, float, int]:
    """By how many points the controller's accuracy is higher in ``second`` than in ``first``, means over budgets.

    With Student's interval over seeds, and how many these are.
    """
    ours = table[table["way"] == GUIDED]
    gain = 100 * (ours[second] - ours[first]).astype(float).groupby(ours["seed"]).mean().to_numpy()
    return gain.mean(), *statistics.t_interval(gain), len(gain)


def stages(table: pd.DataFrame) -> pd.DataFrame:
    """A row per budget, for a reader: accuracy of the controller's networks in each stage, means over seeds."""
    ours = table[table["way"] == GUIDED]
    rows = []
    for budget, part in ours.groupby("budget", sort=False):
        row = {"budget %": f"{100 * budget:g}"}
        row |= {f"{word} %": f"{100 * part[column].mean():.2f}" for column, word in STAGES.items()}
        gain = 100 * (part["tuned"] - part["sliced"]).astype(float)
        row["fine-tuning adds, points"] = interval(gain.mean(), *statistics.t_interval(gain))
        rows.append(
            row | {"exactly zero %": f"{100 * part['zero'].mean():.1f}", "moved": f"{part['moved'].mean():.1f}"}
        )
    return pd.DataFrame(rows)


def last_choice(epochs: pd.DataFrame) -> int:
    """The last epoch in which the controller learnt: after it the choice of channels is final."""
    return int(epochs.loc[epochs["controller_loss"].notna(), "epoch"].max())


def since_final(epochs: pd.DataFrame, column: str) -> tuple[float, float, float, int]:
    """By how many % ``column`` changes to the last epoch, from the first that has all shut groups at zero.

    That is after the last choice. Means over budgets, with Student's interval over seeds, and how many these are. NaN
    and 0 where no training came so far.
    """
    after = epochs[(epochs["epoch"] > last_choice(epochs)) & (epochs["zero"] == 1)].sort_values("epoch")
    ends = after.groupby(["seed", "budget"])[column].agg(["first", "last"])
    gain = (100 * (ends["last"] / ends["first"] - 1)).groupby("seed").mean().to_numpy()
    if not len(gain):
        return math.nan, math.nan, math.nan, 0
    return gain.mean(), *statistics.t_interval(gain), len(gain)


def claims_of(
    table: pd.DataFrame, epochs: pd.DataFrame, found: pd.DataFrame
) -> dict[str, claims.Measured | list | None]:
    """The dissertation's claims: no fine-tuning, taking out costs nothing, more than other ways, convergence.

    None where nothing was measured.

    Args:
        table: of :func:`networks`.
        epochs: of :func:`along`.
        found: of :func:`against`.
    """

    def measured(value: float, low: float, high: float, n: int) -> claims.Measured | None:
        return claims.Measured(value, low, high, n=n) if n else None

    rivals = [
        claims.Measured(row.gain, row.low, row.high, n=row.seeds, against=row.way)
        for row in found.itertuples()
        if row.way != GUIDED
    ]
    return {
        "controller_untuned": measured(*change(table, "sliced", "tuned")),
        "controller_sliced": measured(*change(table, "unmasked", "sliced")),
        "controller_more": rivals,
        "controller_gradient": measured(*since_final(epochs, "projected")),
        "controller_envelope": measured(*since_final(epochs, "envelope")),
    }


def met(table: pd.DataFrame) -> str:
    """How near the budgets were met, in sentences."""
    off = 100 * (table["share"] - table["budget"]).abs()
    ours, others = off[table["way"] == GUIDED], off[table["way"] != GUIDED]
    missed = (table["share"] / table["budget"] - 1).abs() > WIDE
    moved = table.loc[table["way"] == GUIDED, "moved"]
    return (
        f"The controller's networks miss a budget by at most {ours.max():.2f} points of all multiply-adds, "
        f"the others by {others.max():.2f}. {missed[ours.index].sum()} of {len(ours)} "
        f"and {missed[others.index].sum()} of {len(others)} miss by over {WIDE:.0%} of it: one channel can be more. "
        f"For {int((moved > 0).sum())} of {len(ours)} the last choice was moved nearer to the budget."
    )


def beats(found: pd.DataFrame) -> str:
    """Which ways the controller beats and which beat it, in sentences."""
    names = {
        word: ", ".join(found.loc[found["verdict"] == word, "way"]) or "none"
        for word in (*WORDS.values(), "cannot tell")
    }
    first = found.loc[found["mean"].idxmax()]
    return (
        f"Most of the plane is dominated by {first['way']} ({first['mean']:.1f} %). "
        f"The controller has more than: {names['more']}. Less than: {names['less']}. "
        f"Cannot be told: {names['cannot tell']}."
    )


def narrow_told(networks: pd.DataFrame) -> str:
    """By how much the controller's networks are more accurate than narrow ones at the least and the most budget."""
    accuracy = 100 * networks.pivot(index="seed", columns=["budget", "way"], values="accuracy")
    said = []
    for budget in (networks["budget"].min(), networks["budget"].max()):
        gain = (accuracy[budget, GUIDED] - accuracy[budget, "narrow"]).to_numpy()
        said.append(f"{interval(gain.mean(), *statistics.t_interval(gain))} points at {budget:.0%}")
    return f"Its accuracy less that of narrow networks: {said[0]} of the multiply-adds, {said[1]}."


def untuned_told(networks: pd.DataFrame) -> str:
    """What fine-tuning adds to the controller's networks, at the least budget, too, in a sentence."""
    least = networks["budget"].min()
    first, last = (
        interval(*change(part, "sliced", "tuned")[:3]) for part in (networks[networks["budget"] == least], networks)
    )
    return f"Fine-tuning changes accuracy by {last} points, at the least budget by {first}."


def costs_told(networks: pd.DataFrame) -> str:
    """How long the controller's networks train beside narrow ones, in a sentence; none where that is not known."""
    if not timed(networks):
        return ""
    seconds = networks.groupby("way")["cpu_seconds"].mean()
    return f"As many epochs take {seconds[GUIDED] / seconds['narrow']:.1f} times the processor's time of narrow ones."


def sizes_told(networks: pd.DataFrame) -> str:
    """How the controller's files compare with those of narrow networks at equal budgets, in a sentence."""
    size = networks.pivot_table("bytes", "budget", "way")
    return (
        f"Beside narrow networks of the same budgets its files take {(size[GUIDED] / size['narrow']).mean() - 1:+.0%}."
    )


def differs(shares: pd.DataFrame) -> str:
    """Where the controller leaves most and least of a layer, beside global magnitude at the same budget."""
    budget = shares["budget"].min()
    part = shares[shares["budget"] == budget].pivot(index="layer", columns="way", values="share")
    ours = part[GUIDED]
    most, least = ours.idxmax(), ours.idxmin()
    return (
        f"At {budget:.0%} it leaves most of {most} ({ours[most]:.0%}; global magnitude {part['global'][most]:.0%}). "
        f"It leaves least of {least} ({ours[least]:.0%}; global magnitude {part['global'][least]:.0%})."
    )


def settled(epochs: pd.DataFrame) -> str:
    """When the multiply-adds came near the budget, and how many gates still changed at the last choice."""
    last = last_choice(epochs)
    near = epochs[(epochs["share"] - epochs["budget"]).abs() <= NEAR]
    first = near.groupby(["budget", "seed"])["epoch"].min().groupby("budget").mean()
    turned = epochs.loc[epochs["epoch"] == last, "turned"].mean()
    said = ", ".join(f"{epoch:.0f} at {budget:.0%}" for budget, epoch in first.items()) or "none"
    return (
        f"Epoch at which the multiply-adds first are within {100 * NEAR:g} points of the budget: {said}. "
        f"The loss has by then made {_descended(near, epochs):.0%} of its way. "
        f"At the last choice {turned:.1f} gates turn."
    )


def _descended(near: pd.DataFrame, epochs: pd.DataFrame) -> float:
    """How far the loss has come at the first rows ``near``: a mean share of its way to its least."""
    of = ["budget", "seed"]
    then = near.sort_values("epoch").groupby(of)["loss"].first()
    ends = epochs.sort_values("epoch").groupby(of)["loss"].agg(["first", "min"]).loc[then.index]
    return float(((ends["first"] - then) / (ends["first"] - ends["min"])).mean())


def larger_told(published: Published | None) -> str:
    """The takeaway's sentences of another published study; None where this copy lacks it."""
    if not published:
        return "A larger study is not in this copy."
    networks, tried = published.rows("networks"), published.rows("tried")
    return (
        f"**{published.about['data']['name']}.** {met(networks)} "
        f"{beats(volumes_of(networks, published.rows('classes')))} "
        f"{narrow_told(networks)} {sizes_told(networks)} {untuned_told(networks)} "
        f"Best, or as good, at an end of the values tried: {at_an_end(tried)}."
    )
