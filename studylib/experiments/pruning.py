"""Chapter 3: five ways to prune one network, at the same sparsities and with the same training after each."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from studylib import models, prune, store, train
from studylib.data import Data
from studylib.tree.rows import Task


def ways(
    parent: nn.Module, data: Data, sparsities: list[float], *, recipe: train.Recipe, seeds: list[int], scratch: Path
) -> Iterator[Task]:
    """One task a seed and way (:data:`studylib.prune.METHODS`): ``parent`` at each of ``sparsities``.

    The initial weights of "initial" are those that ``parent`` had before its training, by the first of ``seeds``. The
    masks that "random" scatters are those of "pretrained" of the same seed, kept in ``scratch``.

    Rows: sparsity, before and accuracy (0…1, on validation images, right after pruning and of the best epoch),
    dead_layers (names, with commas), density (layer → share of weights that live), right (a class each: the share of
    its test images that are classified rightly; of the first seed's "pretrained", else empty).
    """
    device, spec = next(parent.parameters()).device, parent.spec
    initial = models.create(spec["name"], seeds[0], data=data, **spec["args"]).to(device)
    for seed in seeds:
        masks_file = scratch / f"masks-{seed}.safetensors"
        for method in prune.METHODS:

            def make(seed=seed, method=method, masks_file=masks_file) -> list[dict]:
                like = _masks_in(masks_file, len(sparsities), device) if method == "random" else None
                how = {"method": method, "recipe": recipe, "seed": seed, "initial": initial, "like": like}
                found = prune.trajectory(parent, data, sparsities, **how, scratch=scratch / f"trajectory-{seed}")
                if method == "pretrained":
                    masks = {
                        f"{k}/{name}": m for k, each in enumerate(found) for name, m in prune.masks_of(each).items()
                    }
                    store.write_tensors(masks_file, masks)
                shown = method == "pretrained" and seed == seeds[0]
                return [_row(m, s, data, shown) for s, m in zip(sparsities, found, strict=True)]

            yield {"seed": seed, "method": method}, make


def _masks_in(file: Path, count: int, device: torch.device) -> list[prune.Masks]:
    masks: list[prune.Masks] = [{} for _ in range(count)]
    for name, mask in store.read_tensors(file)[0].items():
        number, _, layer = name.partition("/")
        masks[int(number)][layer] = mask.to(device)
    return masks


def _row(model: nn.Module, sparsity: float, data: Data, shown: bool) -> dict:
    density = {
        name.removesuffix(".weight"): mask.double().mean().item() for name, mask in prune.masks_of(model).items()
    }
    right = []
    if shown:
        predicted = train.predict(model, data.test, data)
        right = list(train.class_accuracy(predicted, data.test.labels, len(data.classes)))
    return {
        "sparsity": sparsity,
        "before": model.accuracy_before,
        "accuracy": max(row["val_accuracy"] for row in model.history),
        "dead_layers": ", ".join(name for name, share in density.items() if share == 0),
        "density": density,
        "right": right,
    }
