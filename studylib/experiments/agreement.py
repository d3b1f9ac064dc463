"""Whether a rerun agrees with what is published: each node's mean beside the published mean and its interval."""

import math

import numpy as np
import pandas as pd

from studylib.results import tables
from studylib.tree import table

WITHIN, OUTSIDE = "within", "OUTSIDE"
ONE_SEED = "one seed published: no interval"


def prediction_half(deviation: float, published: int, rerun: int, level: float = 0.95) -> float:
    """Half the width of the interval in which the mean of ``rerun`` new seeds lies, about a mean of ``published``.

    Student's prediction interval t · s · √(1/n + 1/m) (Hahn and Meeker 1991, section 4.6), for independent seeds. Here
    n and m count those ``published`` and ``rerun``, and s is the ``deviation`` over the former. Reruns of the same
    seeds vary less, so that it is, if anything, wide. NaN for fewer than two published seeds.
    """
    from scipy import stats

    if published < 2 or rerun < 1:
        return math.nan
    return float(stats.t.ppf((1 + level) / 2, published - 1) * deviation * math.sqrt(1 / published + 1 / rerun))


def beside(ours: pd.DataFrame, published: pd.DataFrame, column: str = "test_accuracy") -> pd.DataFrame:
    """Every node of both runs, tables of node, seed, ``column`` and bytes_file, beside each other.

    Rows of node, ours, published (means), seeds, seeds_published, half (of the interval), verdict and bytes_ratio (ours
    / published). The verdict is :data:`WITHIN`, :data:`OUTSIDE` or why there is none.
    """
    of = {"ours": (column, "mean"), "seeds": (column, "size"), "sd": (column, "std"), "bytes": ("bytes_file", "mean")}
    theirs, own = (run.groupby("node", sort=False, as_index=False).agg(**of) for run in (published, ours))
    both = theirs.rename(columns={"ours": "published"}).merge(own, on="node", suffixes=("_published", ""))
    counts = zip(both["sd_published"], both["seeds_published"], both["seeds"], strict=True)
    half = pd.Series([prediction_half(*each) for each in counts], dtype=float)
    within = (both["ours"] - both["published"]).abs() <= half + 1e-12
    verdict = np.select([half.isna(), within], [ONE_SEED, WITHIN], OUTSIDE)
    both = both.assign(half=half, verdict=verdict, bytes_ratio=both["bytes"] / both["bytes_published"])
    return both[["node", "ours", "published", "seeds", "seeds_published", "half", "verdict", "bytes_ratio"]]


def beside_text(found: pd.DataFrame) -> str:
    """What :func:`beside` gives as text: a line per node, and below what ± means and the verdicts counted."""
    shown = {
        "node": found["node"],
        "this run %": _texts(100 * found["ours"], 2),
        "published %": _texts(100 * found["published"], 2, 100 * found["half"]),
        "agreement": found["verdict"],
        "bytes / published": _texts(found["bytes_ratio"], 3),
    }
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found["verdict"].value_counts().items())
    note = f"± is where the mean of {found['seeds'].max()} seeds is expected (95 %); of {len(found)} nodes {counts}"
    return f"{pd.DataFrame(shown).to_string(index=False)}\n{note}"


def side_by_side(a: pd.DataFrame, b: pd.DataFrame, name_a: str, name_b: str) -> str:
    """The nodes that both runs have as text, a line each."""
    rows = table.compare(a, b)
    shown = {
        "node": rows["node"],
        f"{name_a} %": _texts(100 * rows["test_accuracy_a"], 2),
        f"{name_b} % ": _texts(100 * rows["test_accuracy_b"], 2),
        "B − A, points": _texts(100 * rows["difference"], 2, 100 * rows["difference_sd"]),
        f"{name_a} kB": _texts(rows["bytes_file_a"] / 1000, 1),
        f"{name_b} kB ": _texts(rows["bytes_file_b"] / 1000, 1),
        "bytes B / A": _texts(rows["bytes_ratio"], 3),
    }
    note = "test accuracy, means over seeds; ± is the deviation of the difference over the seeds that both have"
    return f"{pd.DataFrame(shown).to_string(index=False)}\n{note}"


def _texts(values: pd.Series, digits: int, spread: pd.Series | float = math.nan) -> list[str]:
    both = pd.DataFrame({"value": values, "spread": spread})
    return [tables.plus_minus(value, half, digits) for value, half in both.itertuples(index=False)]


def differences(ours: dict, published: dict) -> list[str]:
    """In what two studies differ besides their numbers, a sentence each; [] where nothing is known to.

    Each may hold ``settings`` (dictionaries in one another) and ``data_sha256`` (seed → digest). A setting that is
    empty in one of them, and absent in the other, is no difference.
    Neither is a record that only one has, if its first setting, what turns it on, is empty.
    """
    found = []
    mine, theirs = (about.get("data_sha256") or {} for about in (ours, published))
    shared = mine.keys() & theirs.keys()
    if not shared:
        found.append("data not compared: one of the two does not say which images it is of")
    elif any(mine[seed] != theirs[seed] for seed in shared):
        found.append("other data: the images are not those of the published study")
    mine, theirs = (about.get("settings") for about in (ours, published))
    if not mine or not theirs:
        return [*found, "settings not compared: one of the two does not record them"]
    here, there = (pd.json_normalize(settings).to_dict("records")[0] for settings in (mine, theirs))
    here, there = _without_off(here, there), _without_off(there, here)
    return found + [
        f"other settings: {name} is {here.get(name)!r}, published {there.get(name)!r}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name) and ((name in here and name in there) or here.get(name) or there.get(name))
    ]


def _without_off(settings: dict, other: dict) -> dict:
    """``settings`` by their dotted names, without records that are off and that ``other`` does not know."""
    known, first = {name.rpartition(".")[0] for name in other}, {}
    for name, value in settings.items():
        first.setdefault(name.rpartition(".")[0], value)
    on = known | {record for record, value in first.items() if value}
    return {name: value for name, value in settings.items() if name.rpartition(".")[0] in on}
