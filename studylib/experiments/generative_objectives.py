"""What chapters 10 and 11 share: likelihood and a second objective descended together, against weighted sums."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from studylib.descent import objectives, steps
from studylib.experiments.frontier import coded_bytes
from studylib.experiments.moo_objectives import quantization_error
from studylib.networks import layers, saliency
from studylib.results import claims, statistics
from studylib.settings import check_different, nearest, record
from studylib.techniques import prune
from studylib.tree import names

SUM, SUM_NORMALIZED, PCD = "weighted sum", "weighted sum, normalized", "PCD, normalized"
SUMS, ALONE = (SUM, SUM_NORMALIZED), "likelihood alone"  # the last: the same descent without a second objective
ONE_SHOT, TUNED, ROUNDED = "one-shot", "fine-tuned", "rounded"  # what is done to a network after its training
BITS = 4  # of the grid that weights are drawn to, and rounded to
L1, ERROR, BYTES = "l1", "quantization_error", "coded_bytes"  # the second objective
OTHERS = {L1: objectives.l1, ERROR: quantization_error(BITS), BYTES: coded_bytes(BITS)}
NAMES = {L1: "L1", ERROR: "quantization error", BYTES: "coded bytes"}  # for people
Values = list[Annotated[float, Field(gt=0, le=1e6)]]


@record
class Objectives:
    """What is compared; every way has equally many values, so that none is tuned more."""

    sums: Annotated[
        dict[str, Values], Field(min_length=1, description="second objective f → values of λ in the loss + λ f")
    ] = dataclasses.field(default_factory=lambda: {L1: [1e-5, 1e-4]})
    taus: Annotated[
        list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1, description="τ of PCD, at most 1")
    ] = dataclasses.field(default_factory=lambda: [0.1, 0.3])
    normalized: Annotated[Values, Field(description="λ of normalized gradients; empty: the values of τ")] = (
        dataclasses.field(default_factory=list)
    )
    sparsities: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]],
        Field(min_length=1, description="shares of zeros that what descends L1 is pruned to, rising"),
    ] = dataclasses.field(default_factory=lambda: [0.8, 0.9])
    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes of each descent")] = 1
    tuning: Annotated[int, Field(ge=1, le=1_000_000, description="passes of fine-tuning at each sparsity")] = 1

    def check(self) -> None:
        check_different(self, "taus", "normalized")
        prune.check_sparsities(self.sparsities)
        if self.normalized and len(self.normalized) != len(self.taus):
            raise ValueError(f"normalized={self.normalized!r}: expected as many as taus={self.taus!r}")
        for name, values in self.sums.items():
            if name not in OTHERS:
                raise ValueError(f"sums: {name!r}: unknown{nearest(name, list(OTHERS))}")
            if len({*values}) != len(values) or len(values) != len(self.taus):
                raise ValueError(f"sums: {name}={values!r}: expected as many different ones as taus={self.taus!r}")

    def ways(self, other: str) -> dict[str, list[float]]:
        """Way → the values of its one setting."""
        return {
            SUM: self.sums[other],
            SUM_NORMALIZED: self.normalized or self.taus,
            PCD: self.taus,
            ALONE: [0.0],
        }


def tasks_of(comparison: Objectives, best: dict[tuple[str, str], float] | None) -> Iterator[tuple[str, str, float]]:
    """Second objective, way and value of each descent of a seed: all values, or the ``best`` of each way."""
    for other in comparison.sums:
        for way, values in comparison.ways(other).items():
            for value in values if best is None else [best[other, way]]:
                yield other, way, value


def step_of(first: objectives.Objective, other: str, way: str, value: float) -> steps.Descent:
    """What ``way`` does with a batch: ``first`` is the likelihood's objective, ``other`` a name of :data:`OTHERS`."""
    pair = [first, OTHERS[other]]
    if way == ALONE:
        return steps.Descent(pair[:1], "Constant", weights=torch.ones(1))
    if way == PCD:
        return steps.Descent(pair, "PCD", normalize=True, tau=value)
    return steps.Descent(pair, "Constant", normalize=way == SUM_NORMALIZED, weights=torch.tensor([1.0, value]))


def smaller(
    other: str, model: nn.Module, comparison: Objectives, *, rounding: Callable, tune: Callable
) -> Iterator[tuple[str, str, nn.Module]]:
    """``model`` made smaller, as form, stage, network: pruned to each sparsity where L1 was descended, else rounded.

    Args:
        rounding: (model) → a copy of :data:`BITS` bits.
        tune: (model, masks, number of the sparsity) trains ``model`` in place.
    """
    if other != L1:
        yield f"{BITS} bits", ROUNDED, rounding(model)
        return
    for number, sparsity in enumerate(comparison.sparsities):
        pruned = layers.duplicate(model)
        masks = saliency.at_sparsity(layers.prunable(pruned), layers.masks_of(pruned), sparsity, "global")
        saliency.zero(pruned, masks)
        yield f"{sparsity:.0%} zeros", ONE_SHOT, pruned
        tune(pruned, masks, number)
        yield f"{sparsity:.0%} zeros", TUNED, pruned


def row_of(form: str, stage: str, size: int, validation: float, test: torch.Tensor, file: float) -> dict:
    """A row of what was measured: bytes, scores of validation and test, and ``test`` of each image or block (n,).

    ``file`` is added to each score: what the file's own bits are worth, where coded bytes were descended, else 0.
    """
    each = (test.double() + file).cpu()
    row = {"form": form, "stage": stage, "bytes": size, "val_score": validation + file}
    return row | {"test_score": each.mean().item(), "test": [round(one, 5) for one in each.tolist()]}


def without_test(rows: list[dict]) -> list[dict]:
    """``rows`` as they are published: without what each test image or block says, and what the descent started from."""
    return [{key: value for key, value in row.items() if key not in ("test", "start")} for row in rows]


def against_sums(rows: pd.DataFrame, rivals: Sequence[str] = SUMS) -> pd.DataFrame:
    """PCD against each of ``rivals``: a row an objective, stage and rival, of what PCD saves, mean over the forms.

    Columns are objective, stage, rival, saved, low, high (95 %, over seeds and images or blocks), seeds and verdict.
    That is "raises" where PCD saves bits.
    """
    chosen, found = rows[rows["chosen"]], []
    for (other, stage), of in chosen.groupby(["objective", "stage"], sort=False):
        each = {way: _by_seed(group) for way, group in of.groupby("way", sort=False)}
        for rival in rivals:
            mean, low, high = statistics.over_both(each[rival] - each[PCD])
            row = {"objective": other, "stage": stage, "rival": rival, "saved": mean, "low": low, "high": high}
            found.append(row | {"seeds": len(each[PCD]), "verdict": statistics.judge((low, high))})
    return pd.DataFrame(found)


def _by_seed(rows: pd.DataFrame) -> np.ndarray:
    """(seeds, images or blocks): the score of each, mean over the forms."""
    return np.array([np.mean(group["test"].tolist(), axis=0) for _, group in rows.groupby("seed", sort=True)])


def at_best(rows: pd.DataFrame, bits: str) -> pd.DataFrame:
    """Each way at its best value, means over seeds: bytes of the file and ``bits``, the test score's name."""
    chosen = rows[rows["chosen"]]
    then = chosen["form"] + chosen["stage"].map(lambda stage: "" if stage == ROUNDED else f", {stage}")
    value = chosen["value"].map("{:g}".format).where(chosen["way"] != ALONE, "–")
    named = chosen.assign(then=then, objective=chosen["objective"].map(NAMES), value=value)
    by = named.groupby(["objective", "then", "way", "value"], sort=False)[["bytes", "test_score"]].mean().reset_index()
    titles = {"objective": "second objective", "test_score": bits}
    return by.assign(bytes=by["bytes"].round().astype(int)).rename(columns=titles)


def fine_tuned_l1(tried: pd.DataFrame, against: pd.DataFrame) -> pd.DataFrame:
    """The row of ``against`` of L1, fine-tuned, whose weighted sum has the better validation score; empty without L1.

    That is what chapter 6 asks of classifiers.

    Args:
        tried: rows as they are published, with chosen and val_score.
        against: of :func:`against_sums`.
    """
    rows = tried[tried["chosen"] & (tried["objective"] == L1) & tried["way"].isin(SUMS)]
    if not len(rows):
        return against[:0]
    rival = rows.groupby("way")["val_score"].mean().idxmin()
    return against[(against["objective"] == L1) & (against["stage"] == TUNED) & (against["rival"] == rival)]


def saved_percent(nodes: pd.DataFrame) -> claims.Measured:
    """What static int8 saves of the whole network's numbers, both as they are held, in percent: as chapter 5 asks."""
    dense = nodes.set_index("node")["bytes_dense"]
    return claims.Measured(100 * (1 - dense[f"{names.TEACHER}-int8"] / dense[names.TEACHER]))


def claims_of(
    nodes: pd.DataFrame, against: pd.DataFrame, keys: Sequence[str]
) -> dict[str, claims.Measured | list[claims.Measured]]:
    """What int8 saves, and what PCD saves of the whole network's bits, in percent.

    Args:
        nodes: of :func:`studylib.experiments.generative_told.summary`.
        against: of :func:`against_sums`, of ways that may be held against a claim.
        keys: of the claims on int8, on PCD before fine-tuning, and after.
    """
    whole, found = nodes.set_index("node")["test_bits"][names.TEACHER], {keys[0]: saved_percent(nodes)}
    for key, stages in zip(keys[1:], ([ONE_SHOT, ROUNDED], [TUNED]), strict=True):
        found[key] = [
            claims.Measured(
                *(100 * each / whole for each in (row.saved, row.low, row.high)),
                row.seeds,
                f"{row.rival}, {NAMES[row.objective]}",
            )
            for row in against[against["stage"].isin(stages)].itertuples()
        ]
    return found
