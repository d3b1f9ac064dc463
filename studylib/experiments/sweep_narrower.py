"""Chapter 7: narrower dense networks, trained from scratch, which compressed ones have to beat at equal bytes."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from studylib.coding import codec, limits
from studylib.data import datasets, scoring
from studylib.results import statistics, tables
from studylib.settings import check_different, record
from studylib.techniques import int8, teacher
from studylib.training.recipe import Recipe
from studylib.tree.rows import Task, every

BEATS, BEATEN, TOO_SMALL = "beats it", "is beaten", "no control as small"
BY_MEANS = ("above", "below", "larger than every narrower network, beside none", "smaller than every narrower network")
WORDS = {statistics.HELP: BEATS, statistics.HURT: BEATEN, statistics.UNKNOWN: statistics.UNKNOWN}


@record
class Controls:
    """The narrower dense networks; the default depth is the paper's, as inferred (results.claims.PAPER_DEPTH)."""

    growths: Annotated[
        list[Annotated[int, Field(ge=1, le=4096)]],
        Field(min_length=1, description="channels that each of their layers adds, a network each"),
    ] = dataclasses.field(default_factory=lambda: [3, 6])
    depth: Annotated[int, Field(ge=7, le=400, description="their convolutions and linear layers, 3·n + 4")] = 40
    calibration_images: Annotated[
        int, Field(ge=1, description="training images that fix the scales of their int8 form")
    ] = 512

    def check(self) -> None:
        check_different(self, "growths")
        if (self.depth - 4) % 3:
            raise ValueError(f"depth={self.depth!r}: expected 3·n + 4, such as 22 or 40")

    def against(self, data: datasets.Data) -> None:
        """Raises ValueError for more calibration images than ``data`` has, or a network too large for a coded file."""
        if self.calibration_images > len(data.train):
            asked = f"calibration_images={self.calibration_images!r}"
            raise ValueError(f"{asked}: expected at most {len(data.train)}, the training images")
        for growth in self.growths:
            asked = f"growths={growth!r} at depth={self.depth!r}"
            limits.check_network("densenet", {"depth": self.depth, "growth": growth}, data, asked)


def trained(
    dataset: str, seeds: list[int], controls: Controls, recipe: Recipe, device: torch.device, folder: Path
) -> pd.DataFrame:
    """The rows of :func:`networks` for all seeds and growths, kept in ``folder`` as they are made.

    Raises:
        ValueError: the data cannot have such controls (:meth:`Controls.against`).
    """
    controls.against(datasets.load(dataset, seeds[0]))
    digests = [datasets.load(dataset, seed).digest for seed in seeds]
    key = [controls.depth, controls.calibration_images, dataclasses.asdict(recipe), digests]
    how = {"depth": controls.depth, "calibration_images": controls.calibration_images, "device": device}
    tasks = networks(dataset, seeds, controls.growths, recipe=recipe, **how)
    return pd.DataFrame(every(tasks, folder, key))


def networks(
    dataset: str,
    seeds: list[int],
    growths: list[int],
    *,
    depth: int,
    recipe: Recipe,
    calibration_images: int,
    device: torch.device,
) -> Iterator[Task]:
    """One task per seed and growth: a DenseNet that adds ``growth`` channels per layer, as it is and in int8.

    Rows, one per kind (float32, int8): bytes of the coded file, val_accuracy, and the scores of the test images
    (:func:`studylib.data.scoring.scores`).
    """
    for seed in seeds:
        images = datasets.load(dataset, seed)
        for growth in growths:

            def make(seed=seed, growth=growth, images=images) -> list[dict]:
                made = teacher.apply(images, depth=depth, growth=growth, recipe=recipe, seed=seed, device=device)
                small = int8.apply(made, images, seed=seed, calibration_images=calibration_images)
                return [_row(kind, model, images) for kind, model in {"float32": made, "int8": small}.items()]

            yield {"seed": seed, "growth": growth}, make


def _row(kind: str, model: torch.nn.Module, images: datasets.Data) -> dict:
    row = {"kind": kind, "bytes": len(codec.encode(model))}
    row["val_accuracy"] = scoring.accuracy(model, images.validation, images)
    return row | scoring.scores(scoring.predict(model, images.test, images), images.test.labels)


def steps(recipe: Recipe, images: int) -> int:
    """How many steps a training by ``recipe`` on as many ``images`` makes."""
    return recipe.epochs * -(-images // recipe.batch_size)


def control(summary: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """The combinations beside the means of the narrower networks over seeds.

    Args:
        summary: of :func:`studylib.tree.table.summary`.
        networks: rows of :func:`trained`.

    Returns:
        The rows of ``summary`` with the kind "combination", then one for each kind (float32, int8) and growth.
        Each has bytes, accuracy (0…1) and sd of the accuracy (NaN of one seed).
    """
    how = {"bytes": ("bytes", "mean"), "accuracy": ("accuracy", "mean"), "sd": ("accuracy", "std")}
    bare = networks.groupby(["kind", "growth"]).agg(**how).reset_index()
    return pd.concat([summary.assign(kind="combination"), bare])


def margins(table: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """How far each combination lies above the narrower networks at equal bytes, seed by seed.

    Their accuracy is interpolated (:func:`of_each_seed`); verdicts are by Student's interval over the seeds.

    Args:
        table: rows of node, seed, test_accuracy, bytes_file.
        networks: rows of :func:`trained`.

    Returns:
        A row per node: node, bytes, accuracy %, control % (means), margin and its sd (points), verdict (:data:`BEATS`,
        :data:`BEATEN`, "cannot tell", :data:`TOO_SMALL`).
    """
    found = []
    for node, rows in table.groupby("node", sort=False):
        rivals = of_each_seed(networks, "bytes", "accuracy", rows.assign(bytes=rows["bytes_file"]))
        above = 100 * (rows["test_accuracy"] - rivals)
        verdict = statistics.judge(statistics.t_interval(above)) if len(above) > 1 else statistics.UNKNOWN
        row = {"node": node, "bytes": round(rows["bytes_file"].mean())}
        row |= {"accuracy %": 100 * rows["test_accuracy"].mean(), "control %": 100 * pd.Series(rivals).mean()}
        row |= {"margin": above.mean(), "sd": above.std()}
        found.append({**row, "verdict": TOO_SMALL if pd.isna(row["margin"]) else WORDS[verdict]})
    return pd.DataFrame(found)


def told(margins: pd.DataFrame, seeds: int) -> str:
    """How many combinations beat the narrower networks, are beaten, or cannot be told apart, in a sentence."""
    names = {v: [tables.label(n) for n in margins[margins["verdict"] == v]["node"]] for v in WORDS.values()}
    beats, beaten = ("; ".join(names[v]) or "none" for v in (BEATS, BEATEN))
    return (
        f"At equal bytes {len(names[BEATS])} of {len(margins)} combinations beat the narrower dense networks "
        f"({beats}), "
        f"{len(names[BEATEN])} are beaten ({beaten}), {len(names[statistics.UNKNOWN])} cannot be told apart from them "
        f"with n = {seeds} seeds."
    )


def by_means(table: pd.DataFrame) -> pd.DataFrame:
    """Where each combination lies by means, for studies of one seed, which have no :func:`margins`.

    Args:
        table: rows of :func:`control`.

    Returns:
        The combinations, each with its ``margin`` (points; NaN beside none) and ``verdict``, one of :data:`BY_MEANS`,
        in that order.
    """
    combined = table["kind"] == "combination"
    rivals = table[~combined].astype({"bytes": float, "accuracy": float})
    found = table[combined]
    rival = [at_equal_cost(rivals, "bytes", "accuracy", size) for size in found["bytes_file"]]
    verdict = pd.Series(BY_MEANS[0], found.index).mask(found["test_accuracy"] < rival, BY_MEANS[1])
    verdict = verdict.mask(pd.isna(rival), BY_MEANS[3]).mask(found["bytes_file"] > rivals["bytes"].max(), BY_MEANS[2])
    margin = (100 * (found["test_accuracy"] - rival)).where(verdict.isin(BY_MEANS[:2]))
    return found.assign(margin=margin, verdict=pd.Categorical(verdict, BY_MEANS)).sort_values("verdict", kind="stable")


def at_equal_cost(rivals: pd.DataFrame, cost: str, gain: str, at: float) -> float:
    """The best ``gain`` that any kind of rival has at the cost ``at``, interpolated along its line over log cost.

    Args:
        rivals: rows of kind, ``cost`` and ``gain``. A kind counts at its largest where ``at`` is beyond it.

    Returns:
        NaN where every rival costs more.
    """
    found = [float("nan")]
    for _, line in rivals.sort_values(cost).groupby("kind"):
        if line[cost].iloc[0] <= at:
            found.append(float(np.interp(np.log(at), np.log(line[cost]), line[gain])))
    return float(np.nanmax(found)) if len(found) > 1 else float("nan")


def of_each_seed(rivals: pd.DataFrame, cost: str, gain: str, at: pd.DataFrame) -> np.ndarray:
    """:func:`at_equal_cost` in each seed, of the one kind of rivals that is best in the mean over all of them.

    It is not the best of each seed: of two numbers that chance has moved the larger is too large.

    Args:
        rivals: rows as there, with seed.
        at: rows of seed and ``cost``.

    Returns:
        Gains, (n,) of the rows ``at``. NaN where each rival of the kind costs more: it is a kind where few do.
    """
    lines = [
        [at_equal_cost(line[line["seed"] == row["seed"]], cost, gain, row[cost]) for _, row in at.iterrows()]
        for _, line in rivals.groupby("kind")
    ]
    best = max(lines, key=lambda line: (np.isfinite(line).sum(), np.nansum(line)), default=[math.nan] * len(at))
    return np.array(best)


def grouped(control: pd.DataFrame, margins: pd.DataFrame) -> dict:
    """The combinations by verdict: those of :func:`margins`, or where it has none, of one seed, of :func:`by_means`.

    Args:
        control: rows of :func:`control`; its number of seeds makes Student's 95 % interval of a margin and its sd.

    Returns:
        how (they were judged, in words), counts (verdict → combinations) and rows. Of a row: node (in words), margin,
        low and high (its interval, points; NaN where there is none), verdict.
    """
    if len(margins) and margins["verdict"].isin([BEATS, BEATEN]).any():
        from scipy import stats

        margins = margins.astype({"margin": float, "sd": float})
        seeds = margins["node"].map(control.dropna(subset="node").set_index("node")["seeds"])
        half = stats.t.ppf(0.975, seeds - 1) * margins["sd"] / seeds**0.5
        verdict = pd.Categorical(margins["verdict"], [BEATS, statistics.UNKNOWN, BEATEN, TOO_SMALL])
        made = margins.assign(low=margins["margin"] - half, high=margins["margin"] + half, verdict=verdict)
        made, how = made.sort_values("verdict", kind="stable"), f"by intervals over {seeds.max():.0f} seeds"
    else:
        made, count = by_means(control).assign(low=float("nan"), high=float("nan")), control["growth"].nunique()
        how = f"beside {count} narrower network{'s' if count > 1 else ''} in floats and int8, by means"
    rows = made.assign(node=made["node"].map(tables.label), verdict=made["verdict"].astype(str))
    rows = rows[["node", "margin", "low", "high", "verdict"]]
    counts = rows["verdict"].value_counts(sort=False).to_dict()
    return {"how": how, "counts": counts, "rows": rows.to_dict("records")}
