"""Chapter 11: likelihood and a second objective descended together, against weighted sums, each tuned as often."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field
from torch import nn

from studylib.coding import codec, shipped
from studylib.data.datasets import Data
from studylib.descent.objectives import objective
from studylib.experiments import generative
from studylib.experiments import generative_objectives as shared
from studylib.experiments.generative_objectives import BITS, BYTES
from studylib.experiments.vae import CHOOSING, Family, Pixels
from studylib.networks import spec
from studylib.networks.calibration import check_calibration
from studylib.settings import record
from studylib.techniques import int8
from studylib.training import loop
from studylib.tree.rows import Task

CLAIMS = "vae_int8_saved", "vae_one_shot", "vae_tuned"


@record
class Objectives(shared.Objectives):
    """What is compared, each from an untrained network; all lists of values are of one length."""

    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes of each training")] = 10
    repetitions: Annotated[int, Field(ge=1, le=1000, description="seeds; values are chosen on the first")] = 1
    calibration_images: Annotated[int, Field(ge=1, description="training images that fix ranges for rounding")] = 512

    def against(self, data: Data) -> None:
        """Raises ValueError where there are not so many training images."""
        check_calibration(self.calibration_images, data)


@objective("bits")
def bits(model, batch, outputs):
    """The mean negative bound in bits per dimension; outputs are that of each image."""
    return outputs.mean()


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
    family: Family, comparison: Objectives, seed: int, best: dict[tuple[str, str], float] | None
) -> Iterator[Task]:
    node, network, recipe = family.node, family.network, family.recipe
    point = Pixels(node.out / "objectives", node.study.dataset, seed, node.study.threads, node.study.device)
    point.draws = min(CHOOSING, network.draws)
    rate, images = recipe.lr / 5, {"calibration_images": comparison.calibration_images}
    tuning = dataclasses.replace(recipe, epochs=comparison.tuning, lr=rate, min_lr=min(recipe.min_lr, rate))

    def tune(pruned: nn.Module, masks: dict, number: int) -> None:
        loop.fit(pruned, point.data, tuning, seed=seed + 1000 * (number + 1), masks=masks)

    for other, way, value in shared.tasks_of(comparison, best):

        def make(other=other, way=way, value=value) -> list[dict]:
            args = point.data.model_args | {"width": network.width, "latent": network.latent}
            model, step = spec.create("vae", seed, **args).to(point.device), shared.step_of(bits, other, way, value)
            how = {"checkpoint": point.scratch / f"{other}-{way}-{value}-{seed}.safetensors", "keep": "last"}
            shorter = dataclasses.replace(recipe, epochs=comparison.epochs)
            loop.fit(model, point.data, shorter, seed=seed, step=step, **how)
            rounding = functools.partial(int8.apply, data=point.data, seed=seed, bits=BITS, **images)
            found = shared.smaller(other, model, comparison, rounding=rounding, tune=tune)
            return [_measured(form, stage, small, point.data, other) for form, stage, small in found]

        yield {"objective": other, "seed": seed, "way": way, "value": value}, make


def _measured(form: str, stage: str, model: nn.Module, data: Data, other: str) -> dict:
    size = len(codec.encode(shipped.apply(model)))
    file = 8 * size / data.train.images.numel() if other == BYTES else 0.0
    validation, test = (data.task.predict(model, each, data)[:, 0].double() for each in (data.validation, data.test))
    return shared.row_of(form, stage, size, validation.mean().item(), test, file)
