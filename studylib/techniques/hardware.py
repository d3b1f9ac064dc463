"""Hardware-aware quantization: the layers that int8 makes faster on this machine, and no others."""

import logging
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.disk import provenance
from studylib.networks import cost, int8_layers, pt2e, spec
from studylib.networks.calibration import Calibrated
from studylib.networks.layers import check_float, duplicate, fold_batch_norm, weight_layers
from studylib.settings import Batch, record

log = logging.getLogger(__name__)
Timing = Callable[[nn.Module, nn.Module, torch.Tensor], tuple[float, float]]


@record
class HardwareAware(Calibrated):
    """How layers are timed, and from which gain on one is quantized."""

    speedup: Annotated[
        float, Field(gt=0, le=1000, description="least ratio of a layer's time in floats to that in int8")
    ] = 1.0
    batch: Batch = 64
    repeats: Annotated[int, Field(ge=1, le=10_000, description="pairs of passes, in turn, whose medians count")] = 15
    compiled: Annotated[bool, Field(description="through torch.compile, which takes seconds a layer")] = True


def apply(
    model: nn.Module,
    data: Data,
    *,
    speedup: float = 1.0,
    batch: int = 64,
    repeats: int = 15,
    compiled: bool = True,
    calibration_images: int = 512,
    seed: int = 0,
    timing: Timing | None = None,
) -> nn.Module:
    """Quantizes each layer that takes at least ``speedup`` times as long in floats as in int8 on this machine.

    That is hardware in the loop, as in HAQ (Wang et al. 2019), without its search. Each
    layer is timed alone, in floats with batch norm folded and as :func:`studylib.techniques.int8.apply` would have it.
    Layers alike are timed once. What a layer saves beside its neighbours, fused with them, is not seen. Times, machine
    and decision are in the spec: whoever builds the model measures nothing. Zero weights stay zero.

    Args:
        batch: images a pass.
        compiled: by torch.compile. Where that does not work, operation by operation, and the spec says so.
        calibration_images: how many training images, drawn by ``seed``, fix the inputs' scales.
        timing: (float layer, int8 layer, input (n, …)) → milliseconds of both; None measures (:func:`pair`).

    Raises:
        studylib.networks.blocks.SpecError: a layer is int8 already, or cannot be carried over
            (:func:`studylib.networks.pt2e.export`).
        ValueError: a setting is out of range. A time is not above 0. A number of ``model``, or of a layer's output, is
            not finite.
    """
    HardwareAware(calibration_images, speedup, batch, repeats, compiled)  # refuses what is out of range
    check_float(model)
    images = pt2e.calibration(data, calibration_images, seed)
    float_model = duplicate(model).cpu().eval()
    full = pt2e.from_pt2e(float_model, pt2e.convert(float_model, images))
    compiled = compiled and timing is None and cost.why_not_compile() is None
    timing = timing or (lambda *layers: pair(*layers, compiled=compiled, repeats=repeats))
    inputs = _inputs(float_model, images[torch.arange(batch) % len(images)])
    known: dict[str, tuple[float, float]] = {}
    times, floats = {}, weight_layers(fold_batch_norm(float_model))
    for name, layer in weight_layers(full).items():
        kind = f"{layer} {tuple(layer.weight.shape)} {tuple(inputs[name].shape)}"
        if kind not in known:
            known[kind] = timing(floats[name], layer, inputs[name])
            if not min(known[kind]) > 0:
                raise ValueError(f"{name}: timed at {known[kind]} ms: expected numbers above 0")
        times[name] = [float(f"{ms:.4g}") for ms in known[kind]]
        log.info("%s: %.4g ms in floats, %.4g in int8", name, *times[name])
    chosen = [name for name, (in_floats, in_int8) in times.items() if in_floats >= speedup * in_int8]
    structure = {"module": "quantize", "layers": chosen}
    int8_layers.restructure(float_model, structure)
    for name in chosen:
        float_model.get_submodule(name).load_state_dict(full.get_submodule(name).state_dict())
    did = {"layers": len(chosen), "speedup": speedup, "milliseconds": times, "batch": batch, "compiled": compiled}
    did |= {key: value for key, value in provenance.provenance().items() if key in ("hardware", "threads")}
    return spec.with_change(float_model, "hardware", did, structure)


def pair(
    float_layer: nn.Module, int8_layer: nn.Module, x: torch.Tensor, *, compiled: bool, repeats: int
) -> tuple[float, float]:
    """Median milliseconds of both layers on ``x`` (n, …), each of ``repeats`` passes, in turn."""
    if compiled:
        torch._dynamo.reset()  # it gives up on a function that it has compiled eight times
    shape = x.shape[1:]
    if x.dim() != 4:  # what is timed is laid out as images are
        x = x.flatten(1)[:, :, None, None]
    timers = []
    for layer in (float_layer, int8_layer):
        whole = layer if len(shape) == 3 else nn.Sequential(nn.Flatten(), nn.Unflatten(1, shape), layer)
        timers.append(cost.timer(whole, x, compiled=compiled))
    return tuple(cost.in_turn(timers, repeats))


@torch.no_grad()
def _inputs(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Layer → what it reads of ``images`` (n, c, h, w)."""
    found: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _layer, given, _output, name=name: found.update({name: given[0]}))
        for name, layer in weight_layers(model).items()
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return found
