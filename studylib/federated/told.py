"""What chapter 13's rows say: tables, differences seed by seed, claims, sentences."""

import numpy as np
import pandas as pd

from studylib.federated.measure import ALONE, CENTRAL, CLASSES, FEDAVG, FEDPROX, OWN, TAUGHT, TEACHER
from studylib.results import claims, statistics
from studylib.results.tables import plus_minus

AS_TRAINED = "as trained"
ORDER = [f"{way}{more}" for way in (ALONE, FEDAVG, FEDPROX, CENTRAL) for more in ("", f" {TAUGHT}")]
SCORES = {"balanced": "balanced", "worst": "worst class", "rare": "rare classes", "common": "other classes"}
SHOWN = {"balanced": "balanced accuracy", "worst": "the worst class"}


def split_name(alpha: float) -> str:
    """How a split is called: whole classes, or by its α."""
    return "classes" if alpha == CLASSES else f"α = {alpha:g}"


def plain(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of messages that nothing is coded in, and of the teacher as it was trained."""
    return rows[rows["form"].isin([OWN, ""]) & (rows["teacher"] == AS_TRAINED) & (rows["way"] != TEACHER)]


def by_split(rows: pd.DataFrame, score: str) -> pd.DataFrame:
    """A row per way, a column per split: ``score`` of :data:`SHOWN` in %, mean ± standard deviation over seeds."""
    of = plain(rows)
    alphas, found = sorted(of["alpha"].unique()), []
    for way in ORDER:
        part = of[of["way"] == way].groupby("alpha")[score].agg(["mean", "std"])
        cells = [plus_minus(100 * part["mean"][alpha], 100 * part["std"][alpha], 1) for alpha in alphas]
        found.append({f"{SHOWN[score]} %": way, **dict(zip(map(split_name, alphas), cells, strict=True))})
    return pd.DataFrame(found)


def gains(rows: pd.DataFrame, way: str = FEDAVG) -> pd.DataFrame:
    """What the teacher adds to ``way``, in points: a row per seed and α with each of :data:`SCORES`."""
    of, columns = plain(rows).set_index(["seed", "alpha"]), list(SCORES)
    taught, without = (of[of["way"] == each][columns].astype(float) for each in (f"{way} {TAUGHT}", way))
    found = 100 * (taught - without)
    return found.reset_index()


def _interval(values: pd.Series, digits: int = 1) -> str:
    values = values.dropna()
    if values.empty:
        return "–"
    low, high = statistics.t_interval(values.to_numpy())
    between = "" if np.isnan(low) else f" ({low:+.{digits}f} to {high:+.{digits}f})"
    return f"{values.mean():+.{digits}f}{between}"


def gained(rows: pd.DataFrame) -> pd.DataFrame:
    """:func:`gains` of federated averaging for a reader: means, with Student's intervals (95 %) over seeds."""
    found = []
    for alpha, part in gains(rows).groupby("alpha"):
        cells = {title: _interval(part[name]) for name, title in SCORES.items()}
        cells |= dict.fromkeys([SCORES["rare"], SCORES["common"]], "–") if alpha == CLASSES else {}
        found.append({"points by the teacher": split_name(alpha), **cells})
    return pd.DataFrame(found)


def against_first(of: pd.DataFrame, column: str, first: str, score: str = "balanced") -> dict[str, pd.Series]:
    """Value of ``column`` → ``score`` less that where it is ``first``, in points, seed by seed."""
    wide = 100 * of.pivot(index="seed", columns=column, values=score)
    return {name: wide[name] - wide[first] for name in of[column].unique()}


def coded(rows: pd.DataFrame, coded_at: float) -> pd.DataFrame:
    """The rows that differ by the form of messages alone."""
    same = (rows["alpha"] == coded_at) & (rows["way"] == f"{FEDAVG} {TAUGHT}") & (rows["teacher"] == AS_TRAINED)
    return rows[same]


def by_form(rows: pd.DataFrame, coded_at: float, rounds: int) -> pd.DataFrame:
    """A row per form, for a reader: bytes of a round and of all, accuracy, and what the form costs."""
    of, found = coded(rows, coded_at), []
    apart = against_first(of, "form", OWN)
    least = of[of["form"] == OWN][["down", "up"]].to_numpy().sum(1).mean()
    for form, part in of.groupby("form", sort=False):
        whole = (part["down"] + part["up"]).mean()
        found.append(
            {
                "messages": "Flower's own" if form == OWN else form,
                "down, kB a round": f"{part['down'].mean() / rounds / 1000:.1f}",
                "up, kB a round": f"{part['up'].mean() / rounds / 1000:.1f}",
                "all, kB": f"{whole / 1000:,.0f}",
                "times fewer": f"{least / whole:.1f}",
                "balanced %": plus_minus(100 * part["balanced"].mean(), 100 * part["balanced"].std(), 1),
                "less Flower's own, points": "–" if form == OWN else _interval(apart[form]),
            }
        )
    return pd.DataFrame(found)


def smaller(rows: pd.DataFrame, coded_at: float) -> pd.DataFrame:
    """The rows that differ by the teacher alone."""
    same = (rows["alpha"] == coded_at) & (rows["way"] == f"{FEDAVG} {TAUGHT}") & (rows["form"] == OWN)
    return rows[same]


def by_teacher(rows: pd.DataFrame, coded_at: float) -> pd.DataFrame:
    """A row per teacher that clients get, for a reader: its file, its accuracy, and that of its students."""
    of, found = smaller(rows, coded_at), []
    apart = against_first(of, "teacher", AS_TRAINED)
    own = rows[rows["way"] == TEACHER]
    for name, part in of.groupby("teacher", sort=False):
        itself = 100 * own.loc[own["teacher"] == name, "balanced"]
        found.append(
            {
                "teacher": name,
                "file kB": f"{part['teacher_bytes'].mean() / 1000:.1f}",
                "itself, balanced %": plus_minus(itself.mean(), itself.std(), 1),
                "its students %": plus_minus(100 * part["balanced"].mean(), 100 * part["balanced"].std(), 1),
                "less as trained, points": "–" if name == AS_TRAINED else _interval(apart[name]),
            }
        )
    return pd.DataFrame(found)


def by_cost(rows: pd.DataFrame, coded_at: float, clients: int) -> pd.DataFrame:
    """A row per way, for a reader: what one client computes and sends in all rounds. The teacher's file counts once."""
    of, found = plain(rows[rows["alpha"] == coded_at]), []
    for way in [way for way in ORDER if not way.startswith(CENTRAL)]:
        part = of[of["way"] == way]
        found.append(
            {
                "way": way,
                "multiply-adds of a client, millions": f"{part['multiply_adds'].astype(float).mean() / 1e6:,.0f}",
                "a client gets, kB": f"{part['down'].mean() / clients / 1000:,.0f}",
                "a client sends, kB": f"{part['up'].mean() / clients / 1000:,.0f}",
                "the teacher, once, kB": f"{part['teacher_bytes'].mean() / 1000:,.0f}",
            }
        )
    return pd.DataFrame(found)


def _ends(rows: pd.DataFrame) -> tuple[float, float]:
    """The smallest and the largest α of the Dirichlet splits."""
    alphas = [alpha for alpha in rows["alpha"].dropna().unique() if alpha != CLASSES]
    return (min(alphas), max(alphas)) if alphas else (CLASSES, CLASSES)


def _measured(values: pd.Series, against: str = "") -> claims.Measured:
    low, high = statistics.t_interval(values.to_numpy())
    return claims.Measured(float(values.mean()), low, high, n=len(values), against=against)


def claims_of(rows: pd.DataFrame, coded_at: float) -> dict[str, claims.Measured | list[claims.Measured]]:
    """The paper's claims and two of ours, in points seed by seed; intervals are Student's over seeds.

    Args:
        rows: of :func:`studylib.federated.measure.compared`.
        coded_at: the α at which forms and teachers differ.
    """
    few, even = _ends(rows)
    of = plain(rows)
    without = 100 * of[of["way"] == FEDAVG].pivot(index="seed", columns="alpha", values="balanced")
    added = gains(rows)
    wide = added.pivot(index="seed", columns="alpha", values="balanced")
    dirichlet = added[added["alpha"] != CLASSES].groupby("seed")[["rare", "common"]].mean()
    forms, teachers = coded(rows, coded_at), smaller(rows, coded_at)
    return {
        "federated_uneven": _measured(without[few] - without[even]),
        "federated_helps": [_measured(wide[alpha], f"same at {split_name(alpha)}") for alpha in wide.columns],
        "federated_most": _measured(wide[few] - wide[even]),
        "federated_rare": _measured(dirichlet["rare"] - dirichlet["common"]),
        "federated_coded": [
            _measured(found, f"uncoded, {form}")
            for form, found in against_first(forms, "form", OWN).items()
            if form != OWN
        ],
        "federated_small_teacher": [
            _measured(found, f"whole teacher, {name}")
            for name, found in against_first(teachers, "teacher", AS_TRAINED).items()
            if name != AS_TRAINED
        ],
    }


def bounds_told(rows: pd.DataFrame) -> str:
    """Between which bounds federated averaging lies where clients differ most, in sentences."""
    few, even = _ends(rows)
    mean = 100 * plain(rows).groupby(["alpha", "way"])["balanced"].mean()
    return (
        f"At {split_name(few)} a client alone has {mean[few, ALONE]:.1f} % in the mean over classes. "
        f"Averaging has {mean[few, FEDAVG]:.1f} %, all images in one place {mean[few, CENTRAL]:.1f} %. "
        f"At {split_name(even)} these are {mean[even, ALONE]:.1f}, {mean[even, FEDAVG]:.1f} and "
        f"{mean[even, CENTRAL]:.1f} %."
    )


def teacher_told(rows: pd.DataFrame) -> str:
    """What the teacher adds at either end, and where most, in sentences."""
    added = gains(rows)
    means = added.groupby("alpha")["balanced"].mean()
    worst = added.groupby("alpha")["worst"].mean()
    few, even = _ends(rows)
    return (
        f"A teacher adds {means[few]:+.1f} points at {split_name(few)} and {means[even]:+.1f} at {split_name(even)}. "
        f"Most it adds at {split_name(means.idxmax())}: {means.max():+.1f}. "
        f"To the worst class it adds {worst[few]:+.1f} and {worst[even]:+.1f} points."
    )


def rare_told(rows: pd.DataFrame) -> str:
    """Whether rare classes gain more than others, in a sentence or two."""
    added = gains(rows)
    added = added[added["alpha"] != CLASSES].dropna(subset="rare")
    if added.empty:
        return "No split has classes that fewer clients hold than others."
    few = added["alpha"].min()
    at = added[added["alpha"] == few][["rare", "common"]].mean()
    all_ = added.groupby("seed")[["rare", "common"]].mean()
    return (
        f"At {split_name(few)} rare classes gain {at['rare']:+.1f} points by the teacher, the others "
        f"{at['common']:+.1f}. Over all Dirichlet splits the difference is {_interval(all_['rare'] - all_['common'])}."
    )


def prox_told(rows: pd.DataFrame) -> str:
    """What FedProx changes against FedAvg, in a sentence."""
    of = 100 * plain(rows).pivot(index="seed", columns=["way", "alpha"], values="balanced")
    apart = (of[FEDPROX] - of[FEDAVG]).mean()
    return f"FedProx changes balanced accuracy by {apart.min():+.1f} to {apart.max():+.1f} points."


def bytes_told(rows: pd.DataFrame, coded_at: float) -> str:
    """Which form sends least without loss, and which sends least of all, in sentences."""
    of = coded(rows, coded_at)
    size = (of["down"] + of["up"]).groupby(of["form"]).mean()
    apart = against_first(of, "form", OWN)
    least, lossless = size.idxmin(), [form for form in apart if not statistics.t_interval(apart[form])[1] < 0]
    said = (
        f"Messages in {least} take {size[least] / size[OWN]:.1%} of the bytes of Flower's own. "
        f"They change balanced accuracy by {apart[least].mean():+.1f} points. "
    )
    if (form := size[lossless].idxmin()) not in (least, OWN):
        said += f"Of those that are not shown to lose, {form} takes least: {size[form] / size[OWN]:.0%}. "
    return f"{said}Float32 differences, coded without loss, take {size.get('float32', size[OWN]) / size[OWN]:.0%}."


def small_told(rows: pd.DataFrame, coded_at: float) -> str:
    """What the smallest teacher's file costs its students, in a sentence."""
    of = smaller(rows, coded_at)
    size = of.groupby("teacher")["teacher_bytes"].mean()
    apart = {name: found.mean() for name, found in against_first(of, "teacher", AS_TRAINED).items()}
    least = size.idxmin()
    return (
        f"A teacher that is {least} takes {size[least] / size[AS_TRAINED]:.0%} of the bytes. "
        f"Its students change by {apart[least]:+.1f} points."
    )


def work_told(rows: pd.DataFrame, coded_at: float) -> str:
    """How much of a client's work the teacher is, in a sentence."""
    work = plain(rows[rows["alpha"] == coded_at]).groupby("way")["multiply_adds"].mean()
    more = work[f"{FEDAVG} {TAUGHT}"] / work[FEDAVG] - 1
    return f"Asking the teacher once adds {more:.0%} to a client's multiply-adds."
