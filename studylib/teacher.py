"""The root of the tree: a DenseNet, or another network, trained on the labels."""

from pathlib import Path

from torch import nn

from studylib import models, restore, train
from studylib.data import Data


def apply(
    data: Data,
    *,
    depth: int,
    growth: int = 12,
    network: str = "",
    recipe: train.Recipe,
    seed: int,
    device="cpu",
    step: train.Step | None = None,
    scratch: Path | None = None,
) -> nn.Module:
    """A network trained by ``recipe`` with cross-entropy, its best validation epoch kept (the paper, section 3.1).

    With a ``step`` of several objectives the last epoch is kept: what a compression objective does, it does slowly.

    Args:
        depth: convolutions and linear layers of a DenseNet in all, 3·n + 4.
        growth: channels that each of its layers adds.
        network: another in the DenseNet's place: in words (:func:`studylib.models.described`), or a published file,
            whose network is trained on (:func:`studylib.restore.apply`), its zeros held at zero; empty: the DenseNet.
        step: what is done with a batch, see :func:`studylib.train.fit`; None follows cross-entropy.
        scratch: folder in which an interrupted training leaves what it needs to go on.

    Raises:
        ValueError: words that name no network, or a file that cannot be gone on from.
    """
    name, args = "densenet", {"depth": depth, "growth": growth, **data.model_args}
    masks = None
    if network.endswith(restore.ENDING):
        model = restore.apply(network, data)
        masks = {f"{name}.weight": layer.weight.detach() != 0 for name, layer in models.weight_layers(model).items()}
    else:
        if network:
            name, args = models.described(network, {"name": name, "args": args}, data.model_args)
        model = models.create(name, seed, data=data, **args)
    model = model.to(device)
    checkpoint = scratch / "teacher.safetensors" if scratch else None
    keep = "last" if step else "best"
    history = train.fit(model, data, recipe, seed=seed, step=step, masks=masks, checkpoint=checkpoint, keep=keep)
    about = {"epochs": len(history)} | ({"descends": step.label} if step else {})
    return models.with_change(model, "teacher", about, history=history)
