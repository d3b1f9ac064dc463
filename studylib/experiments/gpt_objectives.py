"""Chapter 10: likelihood and a second objective descended together, against weighted sums, each tuned as often."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field
from torch import nn

from studylib.coding import codec
from studylib.data import text
from studylib.descent import objectives
from studylib.experiments import generative
from studylib.experiments import generative_objectives as shared
from studylib.experiments.generative_objectives import BITS, BYTES
from studylib.experiments.gpt import Family
from studylib.networks import layers
from studylib.settings import record
from studylib.techniques import int4
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.tree import names
from studylib.tree.rows import Task

CLAIMS = "gpt_int8_saved", "gpt_common", "gpt_tuned"


@record
class Objectives(shared.Objectives):
    """What is compared, from the trained network on; all lists of values are of one length."""

    lr: Annotated[float, Field(gt=0, le=1000, description="learning rate of a descent at its highest")] = 2e-3


def compared(family: Family, comparison: Objectives) -> list[dict]:
    """A row a seed, objective, way, value, form and stage: the trained network descends both, and is made smaller.

    Every value is of the first seed, the best of all seeds: that of the least mean of ``val_score``. All descents of a
    seed start from its teacher and see the same batches. What descended L1 loses its smallest weights at once, and is
    then fine-tuned at a fifth of the rate. The others are rounded to the nearest of their grid.

    Columns:
        form, stage: what was done after the descent, such as "70 % zeros", fine-tuned.
        val_score, test_score: bits per character; of coded bytes with those of the file, spread over the training text.
        bytes: of the file.
        chosen: whether the value is the best of its way.
        test: the test score of each block.
    """
    node, network = family.node, family.network
    shape = [network.depth, network.width, network.student]
    settings = {key: getattr(comparison, key) for key in ("sparsities", "epochs", "tuning", "lr")}
    key = [node.data.digest, shape, settings, dataclasses.asdict(family.recipe)]
    tasks = functools.partial(_tasks, family, comparison)
    return generative.tuned(tasks, family.seeds, node.out / "rows" / "objectives", key, "val_score")


def _tasks(
    family: Family, comparison: Objectives, seed: int, best: dict[tuple[str, str], float] | None
) -> Iterator[Task]:
    node = family.node
    whole = node.load(family.folder_of(seed, names.TEACHER))
    start = weights_digest(whole)[:12]

    def fitted(model: nn.Module, epochs: int, share: float, name: str, seed: int, **how) -> None:
        rate = share * comparison.lr
        recipe = dataclasses.replace(family.recipe, epochs=epochs, lr=rate, min_lr=min(family.recipe.min_lr, rate))
        checkpoint = node.scratch / f"{name}.safetensors"
        loop.fit(model, node.data, recipe, seed=seed, checkpoint=checkpoint, **how)
        checkpoint.unlink()

    for other, way, value in shared.tasks_of(comparison, best):

        def make(other=other, way=way, value=value) -> list[dict]:
            model, step = layers.duplicate(whole), shared.step_of(objectives.cross_entropy, other, way, value)
            name = f"{other}-{way}-{value}-{seed}"
            fitted(model, comparison.epochs, 1.0, name, seed, step=step, keep="last")

            def tune(pruned: nn.Module, masks: dict, number: int) -> None:
                fitted(pruned, comparison.tuning, 0.2, f"{name}-{number}", seed + 1000 * (number + 1), masks=masks)

            rounding = functools.partial(int4.apply, bits=BITS)
            found = shared.smaller(other, model, comparison, rounding=rounding, tune=tune)
            return [_measured(form, stage, small, node.data, other) for form, stage, small in found]

        yield {"seed": seed, "objective": other, "way": way, "value": value, "start": start}, make


def _measured(form: str, stage: str, model: nn.Module, data: text.Text, other: str) -> dict:
    size = len(codec.encode(model))
    test = text.bits(model, data.test, data).double().mean(1)
    file = 8 * size / data.train.labels.numel() if other == BYTES else 0.0
    return shared.row_of(form, stage, size, data.task.score_of(model, data.validation, data), test, file)
