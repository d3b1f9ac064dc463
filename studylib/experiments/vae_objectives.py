"""Chapter 11: likelihood and a second objective descended together, against weighted sums, each tuned as often."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import nn

from studylib.coding import codec, shipped
from studylib.data.datasets import Data
from studylib.descent import objectives, steps
from studylib.experiments import generative
from studylib.experiments.frontier import coded_bytes
from studylib.experiments.moo_objectives import quantization_error
from studylib.experiments.vae import CHOOSING, Family, Pixels
from studylib.networks import layers, saliency, spec
from studylib.networks.calibration import check_calibration
from studylib.results import claims, statistics
from studylib.settings import check_different, nearest, record
from studylib.techniques import int8, prune
from studylib.training import loop
from studylib.training.recipe import Recipe

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
        dict[str, Values], Field(min_length=1, description="second objective f → values of λ in bits + λ f")
    ] = dataclasses.field(default_factory=lambda: {L1: [1e-5, 1e-4]})
    taus: Annotated[
        list[Annotated[float, Field(gt=0, le=1)]],
        Field(min_length=1, description="τ of PCD, and λ of normalized gradients"),
    ] = dataclasses.field(default_factory=lambda: [0.1, 0.3])
    sparsities: Annotated[
        list[Annotated[float, Field(ge=0, lt=1)]],
        Field(min_length=1, description="shares of zeros that what descends L1 is pruned to, rising"),
    ] = dataclasses.field(default_factory=lambda: [0.8, 0.9])
    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes of each training")] = 10
    tuning: Annotated[int, Field(ge=1, le=1_000_000, description="passes of fine-tuning at each sparsity")] = 1
    repetitions: Annotated[int, Field(ge=1, le=1000, description="seeds; values are chosen on the first")] = 1
    calibration_images: Annotated[int, Field(ge=1, description="training images that fix ranges for rounding")] = 512

    def check(self) -> None:
        check_different(self, "taus")
        prune.check_sparsities(self.sparsities)
        for name, values in self.sums.items():
            if name not in OTHERS:
                raise ValueError(f"sums: {name!r}: unknown{nearest(name, list(OTHERS))}")
            if len({*values}) != len(values) or len(values) != len(self.taus):
                raise ValueError(f"sums: {name}={values!r}: expected as many different ones as taus={self.taus!r}")

    def against(self, data: Data) -> None:
        """Raises ValueError where there are not so many training images."""
        check_calibration(self.calibration_images, data)

    def ways(self, other: str) -> dict[str, list[float]]:
        """Way → the values of its one setting."""
        return {SUM: self.sums[other], SUM_NORMALIZED: self.taus, PCD: self.taus, ALONE: [0.0]}


@objectives.objective("bits")
def bits(model, batch, outputs):
    """The mean negative bound in bits per dimension; outputs are that of each image."""
    return outputs.mean()


def step_of(other: str, way: str, value: float) -> steps.Descent:
    """What ``way`` does with a batch."""
    pair = [bits, OTHERS[other]]
    if way == ALONE:
        return steps.Descent(pair[:1], "Constant", weights=torch.ones(1))
    if way == PCD:
        return steps.Descent(pair, "PCD", normalize=True, tau=value)
    return steps.Descent(pair, "Constant", normalize=way == SUM_NORMALIZED, weights=torch.tensor([1.0, value]))


def compared(family: Family, comparison: Objectives) -> list[dict]:
    """A row a second objective, seed, way, value and form. Every value is of the first seed, the best of all seeds.

    A way's best value has the least mean of ``val_score`` over forms and stages. Networks of a seed start alike, and
    see the same batches and noise. The recipe is of the training; fine-tuning has a fifth of its rate. Scores are bits
    per dimension by :data:`studylib.experiments.vae.CHOOSING` draws. Where coded bytes are descended, those of the file
    are added, spread over the dimensions of all training images.

    Columns:
        form, stage: what was done after the training, such as "80 % zeros", fine-tuned.
        val_score, test_score: of validation and of test images.
        bytes: of the file.
        chosen: whether the value is the best of its way.
        test: the test score of each image, of chosen values; empty for others.
    """
    seeds = range(family.seeds[0], family.seeds[0] + comparison.repetitions)
    tasks = functools.partial(_tasks, family, comparison)
    rows = generative.tuned(tasks, seeds, *_kept(family, comparison), "val_score")
    return [row if row["chosen"] else row | {"test": []} for row in rows]


def _kept(family: Family, comparison: Objectives) -> tuple:
    node, network = family.node, family.network
    forms = [comparison.sparsities, comparison.epochs, comparison.tuning, comparison.calibration_images]
    shape = [network.width, network.latent, network.draws]
    return node.out / "rows" / "objectives", [node.data.digest, shape, forms, dataclasses.asdict(family.recipe)]


def _tasks(
    family: Family,
    comparison: Objectives,
    seed: int,
    best: dict[tuple[str, str], float] | None,
) -> Iterator[tuple]:
    node, network, recipe = family.node, family.network, family.recipe
    point = Pixels(node.out / "objectives", node.study.dataset, seed, node.study.threads, node.study.device)
    point.draws = min(CHOOSING, network.draws)
    for other in comparison.sums:
        for way, values in comparison.ways(other).items():
            for value in values if best is None else [best[other, way]]:

                def make(other=other, way=way, value=value) -> list[dict]:
                    args = point.data.model_args | {"width": network.width, "latent": network.latent}
                    model = spec.create("vae", seed, **args).to(point.device)
                    step = step_of(other, way, value)
                    loop.fit(
                        model,
                        point.data,
                        dataclasses.replace(recipe, epochs=comparison.epochs),
                        seed=seed,
                        step=step,
                        keep="last",
                        checkpoint=point.scratch / f"{other}-{way}-{value}-{seed}.safetensors",
                    )
                    return list(_small(other, model, point.data, recipe, seed, comparison))

                yield {"objective": other, "seed": seed, "way": way, "value": value}, make


def _small(
    other: str, model: nn.Module, data: Data, recipe: Recipe, seed: int, comparison: Objectives
) -> Iterator[dict]:
    """Rows of ``model`` made smaller: pruned to each sparsity where L1 was descended, else rounded."""
    if other != L1:
        images = {"calibration_images": comparison.calibration_images}
        small = int8.apply(model, data, seed=seed, bits=BITS, **images)
        yield {"form": f"{BITS} bits", "stage": ROUNDED} | _measured(small, data, other)
        return
    rate = recipe.lr / 5
    tuning = dataclasses.replace(recipe, epochs=comparison.tuning, lr=rate, min_lr=min(recipe.min_lr, rate))
    for number, sparsity in enumerate(comparison.sparsities):
        pruned = layers.duplicate(model)
        masks = saliency.at_sparsity(layers.prunable(pruned), layers.masks_of(pruned), sparsity, "global")
        saliency.zero(pruned, masks)
        for stage in (ONE_SHOT, TUNED):
            if stage == TUNED:
                loop.fit(pruned, data, tuning, seed=seed + 1000 * (number + 1), masks=masks)
            yield {"form": f"{sparsity:.0%} zeros", "stage": stage} | _measured(pruned, data, other)


def _measured(model: nn.Module, data: Data, other: str) -> dict:
    """Scores on validation and test images, the file's bytes, and the score of each test image."""
    size = len(codec.encode(shipped.apply(model)))
    file = 8 * size / data.train.images.numel() if other == BYTES else 0.0
    val, test = (data.task.predict(model, each, data).double() for each in (data.validation, data.test))
    each = (test[:, 0] + file).cpu()
    row = {"val_score": val[:, 0].mean().item() + file, "test_score": each.mean().item(), "bytes": size}
    return row | {"test": [round(one, 5) for one in each.tolist()]}


def without_images(rows: list[dict]) -> list[dict]:
    """``rows`` of :func:`compared` as they are published."""
    return [{key: value for key, value in row.items() if key != "test"} for row in rows]


def against_sums(rows: pd.DataFrame, rivals: Sequence[str] = SUMS) -> pd.DataFrame:
    """PCD against each of ``rivals``: a row an objective, stage and rival, of what PCD saves, mean over the forms.

    Columns are objective, stage, rival, saved, low, high (95 %, over seeds and images), seeds and verdict. That is
    "raises" where PCD saves bits.
    """
    chosen, found = rows[rows["chosen"]], []
    for (other, stage), of in chosen.groupby(["objective", "stage"], sort=False):
        images = {way: _by_seed(group) for way, group in of.groupby("way", sort=False)}
        for rival in rivals:
            saved = images[rival] - images[PCD]
            mean, low, high = statistics.over_both(saved)
            row = {"objective": other, "stage": stage, "rival": rival, "saved": mean, "low": low, "high": high}
            found.append(row | {"seeds": len(saved), "verdict": statistics.judge((low, high))})
    return pd.DataFrame(found)


def _by_seed(rows: pd.DataFrame) -> np.ndarray:
    """(seeds, images): the score of each test image, mean over the forms."""
    return np.array([np.mean(group["test"].tolist(), axis=0) for _, group in rows.groupby("seed", sort=True)])


def at_best(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean test scores of each way at its best value. A row is an objective and way, a column a form and stage."""
    chosen = rows[rows["chosen"]]
    column = chosen["form"] + chosen["stage"].map(lambda stage: "" if stage == ROUNDED else f", {stage}")
    value = chosen["value"].map("{:g}".format)
    found = chosen.assign(column=column, objective=chosen["objective"].map(NAMES), value=value)
    return found.pivot_table("test_score", ["objective", "way", "value"], "column", sort=False).reset_index()


def claims_of(nodes: pd.DataFrame, against: pd.DataFrame) -> dict[str, claims.Measured | list[claims.Measured]]:
    """What int8 saves, and what PCD saves of the dense network's bits after pruning, in percent."""
    by = nodes.set_index("node")
    saved, whole = 100 * (1 - by["bytes"]["teacher-int8"] / by["bytes"]["teacher"]), by["test_bits"]["teacher"]
    found = {"vae_int8_saved": claims.Measured(saved)}
    for key, stage in (("vae_one_shot", ONE_SHOT), ("vae_tuned", TUNED)):
        rows = against[against["stage"] == stage].itertuples()
        found[key] = [
            claims.Measured(*(100 * each / whole for each in (row.saved, row.low, row.high)), row.seeds, row.rival)
            for row in rows
        ]
    return found
