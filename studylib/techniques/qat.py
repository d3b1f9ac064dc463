"""Quantization-aware training through torchao's PT2E.

The forward pass rounds weights and activations; gradients pass where nothing was clipped. This is the straight-through
estimator (Bengio et al. 2013; Jacob et al. 2018, section 3).
"""

import copy
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from studylib.data import tasks
from studylib.data.datasets import Data
from studylib.networks import grid, int8_layers, layers, pt2e, pt2e_patterns
from studylib.networks.layers import check_float
from studylib.networks.quiet import quiet_torchao
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.training.step import Loss

AVERAGING = 0.1  # how fast the ranges of activations follow a batch: as batch norm's running averages do


def apply(
    model: nn.Module,
    data: Data,
    *,
    recipe: Recipe,
    seed: int,
    bits: int | dict[str, int] = 4,
    calibration_images: int = 512,
    keep_zeros: bool = True,
    loss: Loss | Callable = tasks.cross_entropy,
    scratch: Path | None = None,
) -> nn.Module:
    """Trains ``model`` on with weights rounded to ``bits`` and activations to 8, then converts it to int8 layers.

    Integers, scales and ranges are those of :func:`studylib.techniques.int8.apply`. A weight's scale is its channel's
    at each step. An activation's range starts from the calibration images and follows the batches by a moving average.
    Weights are rounded folded with the running variance, as in inference (Jacob et al. 2018, eq. 14). Batch norms go on
    learning: they use the batch in training, running averages in validation and conversion. The epoch kept has the best
    rounded model in validation, which changes no range.

    Args:
        recipe: a tenth of the model's own learning rate is a good start.
        bits: of the weights, 2 to 8, or layer → bits; layers that are not named have 8.
        calibration_images: how many training images, drawn by ``seed``, the ranges start from.
        keep_zeros: hold zero weights at zero, so that a pruned model stays so.
        scratch: folder for the checkpoint of an interrupted training.

    Returns:
        The int8 model on the CPU; ``history`` has the rows of the training.

    Raises:
        studylib.networks.blocks.SpecError: the model is int8 already; ``bits`` are not 2 to 8, or of no layer.
        ValueError: ``calibration_images`` is out of range, a number of ``model`` is not finite, or
            ``recipe.compile``: observers do not compile.
        FloatingPointError: the loss is no longer finite.
    """
    if recipe.compile:
        raise ValueError("recipe.compile=True: expected False; quantization-aware training runs uncompiled")
    check_float(model)
    bits = int8_layers.bits_of_layers(model, bits)
    images = pt2e.calibration(data, calibration_images, seed)
    rounded = prepare(model, images, bits)
    masks = {f"graph.{name}": mask for name, mask in layers.masks_of(model).items()} if keep_zeros else {}
    checkpoint = scratch / "qat.safetensors" if scratch else None
    history = loop.fit(rounded, data, recipe, seed=seed, loss=loss, masks=masks, checkpoint=checkpoint)
    float_model = layers.duplicate(model).cpu().eval()
    return pt2e.from_pt2e(float_model, rounded.converted(), "qat", {"epochs": len(history)}, history)


class Rounded(nn.Module):
    """PT2E's prepared graph as a model that can be trained: its forward pass rounds what int8 will round.

    Parameters and buffers have the prepared model's names after ``graph.``; the state holds the ranges, too.
    ``train()`` and ``eval()`` switch batch norm, and whether the ranges of activations follow the batches.
    """

    def __init__(self, graph: torch.fx.GraphModule, spec: dict):
        super().__init__()
        from torchao.quantization.pt2e import FakeQuantize, move_exported_model_to_eval

        evaluating = torch.fx.GraphModule(graph, copy.deepcopy(graph.graph))  # shares every tensor with graph
        evaluating.meta.update(graph.meta)  # conversion asks for it
        with pt2e_patterns.remembered():
            move_exported_model_to_eval(evaluating)  # rewrites the graph, too slow to do twice an epoch
        self.graph, self.spec = graph, spec
        activations = [m for m in graph.modules() if isinstance(m, FakeQuantize) and not m.is_per_channel]
        self._unregistered = (evaluating, activations)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.graph(images) if self.training else self._unregistered[0](images)

    def train(self, mode: bool = True) -> nn.Module:
        self.training = mode
        self.observe(mode)
        return self

    def load_state_dict(self, state_dict, *args, **kwargs):
        state = OrderedDict(state_dict)
        state._metadata = self.state_dict()._metadata  # observers of a file, without versions, forget their least scale
        return super().load_state_dict(state, *args, **kwargs)

    def observe(self, on: bool) -> None:
        """Whether the ranges of activations follow what comes in; those of weights always do."""
        for quantizer in self._unregistered[1]:
            quantizer.enable_observer(on)

    def converted(self) -> torch.fx.GraphModule:
        """PT2E's converted graph, on the CPU; the last thing to be done with this model."""
        with quiet_torchao():
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

            self.eval()
            with pt2e.only_conv2d(), pt2e_patterns.remembered():
                return convert_pt2e(self._unregistered[0].cpu())


def prepare(model: nn.Module, images: torch.Tensor, bits: dict[str, int]) -> Rounded:
    """``model`` with rounding in its forward pass, on its device; ranges start from ``images`` (n, c, h, w)."""
    with quiet_torchao():
        from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

        images = images.to(next(model.parameters()).device)
        graph = pt2e.export(layers.duplicate(model).train(), images)
        pt2e.check_range(model, images)
        with pt2e_patterns.remembered():
            graph = prepare_qat_pt2e(graph, pt2e.quantizer(bits, _fake_quantizers()))
        rounded = Rounded(graph, {**model.spec, "bits": bits}).eval()  # a checkpoint is of these bits
        rounded.observe(True)
        with torch.no_grad():
            for chunk in images.split(128):
                rounded(chunk)
        return rounded.eval()


def _fake_quantizers() -> tuple:
    """What rounds inputs and weights in training; torchao's plain fake quantizers.

    The fused ones give the negative side one integer more in training than in conversion: at few bits another grid.
    """
    from torchao.quantization import pt2e as observing

    def quantizer(observer: type, share: float):
        return observing.FakeQuantize.with_args(observer=observer, averaging_constant=share, eps=grid.LEAST)

    per_channel = quantizer(observing.MovingAveragePerChannelMinMaxObserver, 1.0)  # 1: this step alone
    return quantizer(observing.MovingAverageMinMaxObserver, AVERAGING), per_channel
