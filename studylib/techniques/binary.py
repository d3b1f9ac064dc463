"""Binary weights: a sign each and a scale a filter, trained by the straight-through estimator."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from torch import nn
from torch.nn.utils import parametrize

from studylib.data.datasets import Data
from studylib.networks import grid, int8_layers, layers, spec
from studylib.settings import record
from studylib.training import loop
from studylib.training.recipe import Recipe

TRAINED = "parametrizations.weight.original"  # where a layer that is rounded in training has its weight


@record
class Binary:
    """Which layers are binary."""

    ends: Annotated[bool, Field(description="the first and last layer, too, which the paper leaves in floats")] = False


def apply(
    model: nn.Module, data: Data, *, recipe: Recipe, seed: int, ends: bool = False, scratch: Path | None = None
) -> nn.Module:
    """Trains ``model`` on with binary weights, then stores a sign each (Rastegari et al. 2016, section 3.1).

    Of a filter W of n weights the sign's scale is α = Σ|W| / n. Both are least squares optimal (equations 4 to 6). The
    forward pass has α · sign(W), the optimizer changes W. Gradients pass a sign where |W| ≤ 1 (section 3.1, Training).
    Zero weights stay zero: a pruned filter's α is the mean of what is left. Inputs stay float.

    Args:
        recipe: of the training; of 0 epochs, weights are made binary as they are.
        ends: make the first and the last layer binary, too.
        scratch: folder for the checkpoint of an interrupted training.

    Returns:
        The model on the CPU, batch norm folded into the scales; ``history`` has the rows of the training.

    Raises:
        studylib.networks.blocks.SpecError: a layer is int8 already, or a batch norm cannot be folded.
        ValueError: there is no layer between the first and the last, or a number of ``model`` is not finite.
        FloatingPointError: the loss is no longer finite.
    """
    Binary(ends)  # refuses what is no truth value
    layers.check_float(model)
    names = list(layers.weight_layers(model))[slice(None) if ends else slice(1, -1)]
    if not names:
        raise ValueError(f"ends={ends!r}: expected true, for there is no layer between the first and the last")
    rounded = prepare(model, names)
    masks = {_trained(name, names): mask for name, mask in layers.masks_of(model).items()}
    checkpoint = scratch / "binary.safetensors" if scratch else None
    history = loop.fit(rounded, data, recipe, seed=seed, masks=masks, checkpoint=checkpoint)
    trained = layers.duplicate(model)
    state = rounded.state_dict()
    trained.load_state_dict({name: state[_trained(name, names)] for name in trained.state_dict()})
    structure = {"module": "quantize", "layers": names, "bits": 1, "activations": "float"}
    did = {"layers": len(names), "epochs": len(history)}
    return spec.with_change(int8_layers.rounded(trained, structure), "binary", did, structure, history)


class Sign(nn.Module):
    """A weight (out, …) → α · its sign, α the mean magnitude of a filter's weights that are not zero.

    The gradient of sign is 1 where the weight is within ±1, and 0 elsewhere. That of α is its own.
    """

    def forward(self, weight):
        rows = weight.flatten(1)
        passed = rows.clamp(-1, 1)
        sign = passed + (rows.sign() - passed).detach()
        return (grid.steps(rows, 1) * sign).view(weight.shape)


def prepare(model: nn.Module, names: list[str]) -> nn.Module:
    """A copy of ``model`` whose layers ``names`` compute with binary weights, ready to be trained."""
    new = layers.duplicate(model)
    for name in names:
        parametrize.register_parametrization(new.get_submodule(name), "weight", Sign())
    new.spec = {**model.spec, "binary": names}  # a checkpoint is of these layers
    return new


def _trained(name: str, names: list[str]) -> str:
    """The name, in a model of :func:`prepare`, of the tensor ``name``."""
    layer, _, field = name.rpartition(".")
    return f"{layer}.{TRAINED}" if field == "weight" and layer in names else name
