"""Chapter 7: narrower dense networks, trained from scratch, which compressed ones have to beat at equal bytes."""

from collections.abc import Iterator

import torch

from studylib import codec, data, quantize, teacher, train
from studylib.tree.rows import Task


def networks(
    dataset: str,
    seeds: list[int],
    growths: list[int],
    *,
    depth: int,
    recipe: train.Recipe,
    calibration_images: int,
    device: torch.device,
) -> Iterator[Task]:
    """One task a seed and growth: a DenseNet that adds ``growth`` channels a layer, as it is and in int8.

    Rows, one a kind (float32, int8): bytes of the coded file, val_accuracy, and the scores of the test images
    (:func:`studylib.train.scores`).
    """
    for seed in seeds:
        images = data.load(dataset, seed)
        for growth in growths:

            def make(seed=seed, growth=growth, images=images) -> list[dict]:
                made = teacher.apply(images, depth=depth, growth=growth, recipe=recipe, seed=seed, device=device)
                small = quantize.apply(made, images, seed=seed, calibration_images=calibration_images)
                return [_row(kind, model, images) for kind, model in {"float32": made, "int8": small}.items()]

            yield {"seed": seed, "growth": growth}, make


def _row(kind: str, model: torch.nn.Module, images: data.Data) -> dict:
    row = {"kind": kind, "bytes": len(codec.encode(model))}
    row["val_accuracy"] = train.accuracy(model, images.validation, images)
    return row | train.scores(train.predict(model, images.test, images), images.test.labels)
