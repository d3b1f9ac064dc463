"""Chapter 10: likelihood and a second objective descended together, against weighted sums, each tuned as often."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from studylib.coding import codec
from studylib.data import text
from studylib.descent import objectives, steps
from studylib.experiments import generative
from studylib.experiments.frontier import coded_bytes
from studylib.experiments.gpt import Family
from studylib.experiments.moo_objectives import quantization_error
from studylib.networks import layers
from studylib.results import claims, statistics
from studylib.settings import check_different, record
from studylib.techniques import int4, oneshot
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.tree import names
from studylib.tree.rows import Task

SUM, SUM_NORMALIZED, PCD = "weighted sum", "weighted sum, normalized", "PCD, normalized"
SUMS, ALONE = (SUM, SUM_NORMALIZED), "likelihood alone"  # the last: the same descent without a second objective
L1, ERROR, CODED = "L1", "quantization error", "coded bytes"
BITS = 4  # of the grid that the last two know, and that their networks are rounded to
Values = list[Annotated[float, Field(gt=0, le=1e6)]]
VALUES = {L1: "l1", ERROR: "error", CODED: "coded"}  # objective → the field of λ for it


@record
class Objectives:
    """What is compared. All lists of values are of one length, so that none is tuned more."""

    l1: Annotated[Values, Field(min_length=1, description="λ of cross-entropy + λ ‖w‖₁")] = dataclasses.field(
        default_factory=lambda: [1e-5, 1e-4]
    )
    error: Annotated[Values, Field(min_length=1, description="λ of the squared distance to the grid")] = (
        dataclasses.field(default_factory=lambda: [0.01, 0.1])
    )
    coded: Annotated[Values, Field(min_length=1, description="λ of the bytes that a coder takes")] = dataclasses.field(
        default_factory=lambda: [1e-6, 1e-5]
    )
    taus: Annotated[
        list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, description="τ of PCD, at most 1")
    ] = dataclasses.field(default_factory=lambda: [0.1, 0.3])
    normalized: Annotated[Values, Field(description="λ of normalized gradients; empty: the values of τ")] = (
        dataclasses.field(default_factory=list)
    )
    sparsity: Annotated[float, Field(ge=0, lt=1, description="share of zeros that what descended L1 is pruned to")] = (
        0.7
    )
    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes of each descent from the trained network")] = 1
    lr: Annotated[float, Field(gt=0, le=1000, description="its learning rate at its highest")] = 2e-3

    def check(self) -> None:
        check_different(self, *VALUES.values(), "taus", "normalized")
        for name in (*VALUES.values(), *(["normalized"] if self.normalized else [])):
            if len(getattr(self, name)) != len(self.taus):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected as many as taus={self.taus!r}")

    def ways(self, objective: str) -> dict[str, list[float]]:
        """Way → the values of its one setting."""
        return {
            SUM: getattr(self, VALUES[objective]),
            SUM_NORMALIZED: self.normalized or self.taus,
            PCD: self.taus,
            ALONE: [0.0],
        }


def step_of(objective: str, way: str, value: float) -> steps.Descent:
    """What ``way`` does with a batch."""
    if way == ALONE:
        return steps.Descent([objectives.cross_entropy], "Constant", weights=torch.ones(1))
    second = {L1: objectives.l1, ERROR: quantization_error(BITS), CODED: coded_bytes(BITS)}[objective]
    pair = [objectives.cross_entropy, second]
    if way == PCD:
        return steps.Descent(pair, "PCD", normalize=True, tau=value)
    return steps.Descent(pair, "Constant", normalize=way == SUM_NORMALIZED, weights=torch.tensor([1.0, value]))


def compared(family: Family, comparison: Objectives) -> list[dict]:
    """A row a seed, objective, way and value: the trained network descends both, and is then pruned or rounded.

    Every value is of the first seed, the best of all seeds. All descents of a seed start from its teacher and see the
    same batches. What descended L1 loses its smallest weights at once. The others are rounded to the nearest of their
    grid.

    Columns:
        bytes: of the file.
        val_total, test_total: bits per character; of coded bytes with those of the file, spread over the training text.
        chosen: whether the value is the best of its way, that of the least val_total.
        test: the same as test_total, of each test block.
    """
    node, network = family.node, family.network
    shape = [network.depth, network.width, network.student]
    settings = {k: v for k, v in dataclasses.asdict(comparison).items() if k in ("sparsity", "epochs", "lr")}
    key = [node.data.digest, shape, settings, dataclasses.asdict(family.recipe)]
    tasks = functools.partial(_tasks, family, comparison)
    return generative.tuned(tasks, family.seeds, node.out / "rows" / "objectives", key, "val_total")


def _tasks(
    family: Family, comparison: Objectives, seed: int, best: dict[tuple[str, str], float] | None
) -> Iterator[Task]:
    how = {"epochs": comparison.epochs, "lr": comparison.lr, "min_lr": min(family.recipe.min_lr, comparison.lr)}
    node, tuning = family.node, dataclasses.replace(family.recipe, **how)
    whole = node.load(family.folder_of(seed, names.TEACHER))
    start = weights_digest(whole)[:12]
    for objective in VALUES:
        for way, values in comparison.ways(objective).items():
            for value in values if best is None else [best[objective, way]]:

                def make(objective=objective, way=way, value=value) -> list[dict]:
                    model, step = layers.duplicate(whole), step_of(objective, way, value)
                    checkpoint = node.scratch / f"{objective}-{way}-{value}-{seed}.safetensors"
                    loop.fit(model, node.data, tuning, seed=seed, step=step, keep="last", checkpoint=checkpoint)
                    checkpoint.unlink()
                    return [_found(model, node.data, objective, comparison.sparsity)]

                yield {"seed": seed, "objective": objective, "way": way, "value": value, "start": start}, make


def _found(model: nn.Module, data: text.Text, objective: str, sparsity: float) -> dict:
    pruned = objective == L1
    small = oneshot.apply(model, sparsity=sparsity) if pruned else int4.apply(model, bits=BITS)
    file = codec.encode(small)
    own = 8 * len(file) / data.train.labels.numel() if objective == CODED else 0.0
    test = text.bits(small, data.test, data).double().mean(1) + own
    val = data.task.score_of(small, data.validation, data) + own
    row = {"bytes": len(file), "val_total": val, "test_total": test.mean().item()}
    return row | {"test": [round(each, 5) for each in test.tolist()]}


def without_blocks(rows: list[dict]) -> list[dict]:
    """``rows`` without what each test block says."""
    return [{key: value for key, value in row.items() if key not in ("test", "start")} for row in rows]


def against_sums(rows: pd.DataFrame, rivals: Sequence[str] = SUMS) -> pd.DataFrame:
    """PCD against each of ``rivals``, ways each at its best: a row an objective and rival.

    Columns are objective, rival, saved (bits per character), low, high (95 %, over seeds and blocks), seeds, verdict.
    """
    best, found = rows[rows["chosen"]], []
    for objective, of in best.groupby("objective", sort=False):
        blocks = {way: np.array(group.sort_values("seed")["test"].tolist()) for way, group in of.groupby("way")}
        for rival in rivals:
            mean, low, high = statistics.over_both(blocks[rival] - blocks[PCD])
            row = {"objective": objective, "rival": rival, "saved": mean, "low": low, "high": high}
            found.append(row | {"seeds": len(blocks[PCD]), "verdict": statistics.judge((low, high))})
    return pd.DataFrame(found)


def listed(rows: pd.DataFrame) -> pd.DataFrame:
    """Each objective and way at its best, for people."""
    found = (
        rows[rows["chosen"]]
        .groupby(["objective", "way", "value"], sort=False)[["bytes", "test_total"]]
        .mean()
        .reset_index()
    )
    said = {"value": [f"{value:g}" for value in found["value"]], "bytes": found["bytes"].round().astype(int)}
    return found.assign(**said).rename(columns={"test_total": "test bits"})


def claims_of(nodes: pd.DataFrame, against: pd.DataFrame) -> dict[str, claims.Measured | list[claims.Measured]]:
    """What int8 saves of the file, and what PCD saves of the whole network's bits, in percent."""
    by = nodes.set_index("node")
    whole = by["test_bits"][names.TEACHER]
    saved = 100 * (1 - by["bytes"][f"{names.TEACHER}-int8"] / by["bytes"][names.TEACHER])
    found = {"gpt_int8_saved": claims.Measured(saved)}
    found["gpt_common"] = [
        claims.Measured(
            *(100 * each / whole for each in (r.saved, r.low, r.high)), r.seeds, f"{r.rival}, {r.objective}"
        )
        for r in against.itertuples()
    ]
    return found
