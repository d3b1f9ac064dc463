"""The tables that chapter 14 keeps of :func:`studylib.experiments.controller.compared`, and the settings it had."""

import pandas as pd

from studylib import settings
from studylib.experiments.controller import CONTROLS, GUIDED, WAYS, Comparison, guidance_of, middle_of

PARTS = (GUIDED, *CONTROLS, "narrow")  # each beside the next differs in one thing
LISTS = ("kept", "along")  # of a row; they become tables of their own
OURS = ("share", "batch_size", "every", "label_smoothing")  # settings that are not the authors'


def networks(rows: list[dict]) -> list[dict]:
    """The rows of :func:`studylib.experiments.controller.compared` that are compared, without their lists."""
    return [{key: value for key, value in row.items() if key not in LISTS} for row in rows if _of_a_way(row)]


def controls(rows: list[dict]) -> list[dict]:
    """Of :data:`PARTS`, at the budgets that have all: way, budget, seed, accuracy, and tuned where it is known."""
    budgets = {row["budget"] for row in rows if row["way"] in CONTROLS}
    keys = ("way", "budget", "seed", "accuracy")
    return [
        {key: row[key] for key in keys} | {"tuned": row.get("tuned")}
        for row in rows
        if row["way"] in PARTS and row["budget"] in budgets and not row["tuned_on"]
    ]


def _of_a_way(row: dict) -> bool:
    return row["way"] in WAYS and not row["tuned_on"]


def tried(rows: list[dict]) -> list[dict]:
    """Those on which the ways were tuned: way, budget, value, val_accuracy, and tuning_seed, not among the seeds."""
    keys = ("way", "budget", "value", "val_accuracy")
    return [{key: row[key] for key in keys} | {"tuning_seed": row["seed"]} for row in rows if row["tuned_on"]]


def kept(rows: list[dict], families: pd.DataFrame) -> list[dict]:
    """Share of the channels that a way leaves in each layer, means over seeds: way, budget, layer, share."""
    found = [
        {"way": row["way"], "budget": row["budget"], "layer": layer, "share": count / size}
        for row in rows
        if _of_a_way(row)
        for layer, size, count in zip(families["layer"], families["channels"], row["kept"], strict=True)
    ]
    return pd.DataFrame(found).groupby(["budget", "way", "layer"], sort=False)["share"].mean().reset_index()


def along(rows: list[dict]) -> list[dict]:
    """An epoch of the controller's trainings a row: budget, seed, and what :class:`.controller_along.Watch` gives."""
    return [
        {"budget": row["budget"], "seed": row["seed"], **{key: value for key, value in epoch.items() if key != "open"}}
        for row in rows
        if row["way"] == GUIDED and not row["tuned_on"]
        for epoch in row["along"]
    ]


def opened(rows: list[dict], families: pd.DataFrame) -> pd.DataFrame:
    """Share of each layer's gates that are open after each epoch, means over seeds: budget, epoch, layer, share."""
    found = [
        {"budget": row["budget"], "epoch": epoch["epoch"], "layer": layer, "share": count / size}
        for row in rows
        if row["way"] == GUIDED and not row["tuned_on"]
        for epoch in row["along"]
        for layer, size, count in zip(families["layer"], families["channels"], epoch["open"], strict=True)
    ]
    return pd.DataFrame(found).groupby(["budget", "epoch", "layer"], sort=False)["share"].mean().reset_index()


def guidance_listed(comparison: Comparison) -> pd.DataFrame:
    """The controller's settings in a comparison, for a reader: setting, value, whose choice it is, meaning."""
    middle, (symbol, _) = middle_of(comparison), WAYS[GUIDED]
    found = pd.DataFrame(settings.table({"guidance": guidance_of(comparison, middle, 1.0)}))
    found["setting"] = found["setting"].str.removeprefix("guidance.")
    found = found[found["setting"] != "budget"].set_index("setting", drop=False)
    tuned = {"strength": f"{symbol}, tuned", "final_strength": f"100 {symbol}"}
    found["value"] = [tuned.get(name, value) for name, value in found["value"].items()]
    choices = {"strength": "tuned"} | dict.fromkeys(OURS, "ours")
    found["choice"] = [choices.get(name, "the authors'") for name in found.index]
    return found[["setting", "value", "choice", "meaning"]].reset_index(drop=True)
