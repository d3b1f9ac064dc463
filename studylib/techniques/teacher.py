"""The root of the tree: a DenseNet, or another network, trained on the labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import nn

from studylib.coding import limits, restore
from studylib.data.datasets import Data
from studylib.disk import files
from studylib.networks import layers
from studylib.networks.spec import create, described, with_change
from studylib.settings import record
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.training.step import Step

MOST_LEFT = 200_000_000  # bytes of a teacher's weights, four a number, after all its epochs
REMEDY = "delete the teacher's folder and train it again"


@record
class Network:
    """A DenseNet, or another network in its place.

    The paper names no depth; the default is what its bytes come to (:data:`studylib.results.claims.PAPER_DEPTH`).
    """

    depth: Annotated[
        int, Field(ge=7, le=400, description="convolutions and linear layers of a DenseNet in all, 3·n + 4")
    ] = 40  # of more layers not even the names fit into a coded file
    growth: Annotated[int, Field(ge=1, le=4096, description="channels that each of its layers adds")] = 12
    name: Annotated[
        str,
        Field(description="another in its place: kind and breadth (vgg 20, resnet 20-16), or a published .slnc file"),
    ] = ""

    def check(self) -> None:
        if (self.depth - 4) % 3:
            raise ValueError(f"depth={self.depth!r}: expected 3·n + 4, such as 22 or 40")
        kind, _, numbers = self.name.partition(" ")
        alone = kind == "densenet" and "-" not in numbers  # its depth is not in its name
        for size in () if not self.name else ("growth",) if alone else ("depth", "growth"):
            if getattr(self, size) != getattr(type(self), size):
                raise ValueError(
                    f"{size}={getattr(self, size)!r}: expected none beside name={self.name!r}, which says it"
                )
        if not self.name.endswith(restore.ENDING):
            self.described({})

    def described(self, model_args: dict) -> tuple[str, dict]:
        """Kind and arguments, for :func:`studylib.networks.spec.create`, of a network that is no published file.

        ``model_args`` are what a network needs to fit the data. Raises ValueError where ``name`` names no network.
        """
        name, args = "densenet", {"depth": self.depth, "growth": self.growth, **model_args}
        if not self.name:
            return name, args
        try:
            return described(self.name, {"name": name, "args": args}, model_args)
        except ValueError as error:
            raise ValueError(f"name={self.name!r}{str(error).removeprefix(f'network {self.name!r}')}") from error

    def against(self, data: Data) -> None:
        """Raises ValueError where no teacher of ``data`` can be had of it; nothing is trained, no memory taken.

        Images do not fit it, or no coded file can hold it. Or a published file is missing, damaged, or of other images
        or another split.
        """
        asked = f"name={self.name!r}" if self.name else f"depth={self.depth}, growth={self.growth}"
        if not self.name.endswith(restore.ENDING):
            return limits.check_network(*self.described({}), data, asked)
        try:
            spec = restore.published(self.name, data).spec
        except (ValueError, files.CheckpointError) as error:
            raise ValueError(f"{asked}: {error}") from error
        args = {key: value for key, value in spec["args"].items() if key not in data.model_args}
        limits.check_network(spec["name"], args, data, asked)


def apply(
    data: Data,
    *,
    depth: int,
    growth: int = 12,
    name: str = "",
    recipe: Recipe,
    seed: int,
    device="cpu",
    step: Step | None = None,
    scratch: Path | None = None,
    every_epoch: Path | None = None,
) -> nn.Module:
    """A network trained by ``recipe`` with cross-entropy, its best validation epoch kept (the paper, section 3.1).

    With a ``step`` of several objectives the last epoch is kept: what a compression objective does, it does slowly.

    Args:
        depth, growth, name: as in :class:`Network`. That of a published file is trained on
            (:func:`studylib.coding.restore.apply`), its zeros held at zero.
        step: what is done with a batch, see :func:`studylib.training.loop.fit`; None follows cross-entropy.
        scratch: folder for the checkpoint of an interrupted training.
        every_epoch: folder for the weights of each epoch, read by
            :func:`studylib.experiments.teacher.look_again`. Of more than :data:`MOST_LEFT` bytes in all none are left.
            Other files there are removed.

    Raises:
        ValueError: words that name no network, or a file that cannot be gone on from.
    """
    masks = None
    if name.endswith(restore.ENDING):
        model = restore.apply(name, data)
        masks = layers.masks_of(model)
    else:
        kind, args = Network(depth, growth, name).described(data.model_args)
        model = create(kind, seed, data=data, **args)
    model = model.to(device)
    small = 4 * recipe.epochs * sum(tensor.numel() for tensor in model.state_dict().values()) <= MOST_LEFT
    watch = _leave_in(every_epoch) if every_epoch and small else None
    how = {"step": step, "keep": "last" if step else "best", "masks": masks, "watch": watch}
    checkpoint = scratch / "teacher.safetensors" if scratch else None
    history = loop.fit(model, data, recipe, seed=seed, checkpoint=checkpoint, **how)
    if every_epoch:
        _leave_only(every_epoch, {row["weights"] for row in history if "weights" in row})
    about = {"epochs": len(history)} | ({"descends": step.label} if step else {})
    return with_change(model, "teacher", about, history=history)


def _leave_in(folder: Path) -> Callable[[nn.Module], dict]:
    def leave(model: nn.Module) -> dict:
        digest = weights_digest(model)
        files.write_tensors(epoch_file(folder, digest), model.state_dict())
        return {"weights": digest}

    return leave


def _leave_only(folder: Path, digests: set[str]) -> None:
    """Removes what an earlier training, or one that was killed as it wrote, has left in ``folder``."""
    for path in set(folder.glob("*")) - {epoch_file(folder, digest) for digest in digests}:
        if path.is_file():
            path.unlink()


def epoch_file(folder: Path, digest: str) -> Path:
    return folder / f"{digest}.safetensors"  # by its content: no other training's weights can be taken for it
