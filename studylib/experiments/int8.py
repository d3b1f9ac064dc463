"""Chapter 5: what int8 stores and computes, static against dynamic, and pruned against dense."""

import dataclasses
import math
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from studylib.coding import size
from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.networks import cost, int8_layers, pt2e, spec
from studylib.networks.layers import duplicate, fold_batch_norm, weight_layers
from studylib.results import claims
from studylib.results.statistics import HELP, HURT, UNKNOWN, judge, over_both, t_interval
from studylib.settings import Batch, record
from studylib.techniques import int8

KINDS = {"static": "static", "dynamic": "dynamic", "float": "weight-only"}  # quantize.ACTIVATIONS, as rows name them
DENSE, PRUNED = "dense", "pruned"
REPEATS = 15  # forward passes of each network that is timed


Networks = dict[str, nn.Module]


@record
class Latency:
    """How the time of a forward pass is taken."""

    compiled: Annotated[
        bool, Field(description="through torch.compile, which takes half a minute; else operation by operation")
    ] = True
    batch: Batch = 64


def stored_types(model: nn.Module) -> list[dict]:
    """Rows of type (torch's name) and numbers: how many of them ``model`` holds."""
    count: dict[str, int] = {}
    for tensor in model.state_dict().values():
        count[str(tensor.dtype)] = count.get(str(tensor.dtype), 0) + tensor.numel()
    return [{"type": name, "numbers": numbers} for name, numbers in count.items()]


def equals_graph(model: nn.Module, data: Data, count: int) -> dict:
    """The first ``count`` training images through PT2E's graph of the float ``model`` and through our layers.

    Returns:
        images (how many), and equal: whether all outputs are, to the last bit.
    """
    images = data.normalize(data.train.images[:count]).cpu()
    float_model = duplicate(model).cpu()
    graph = pt2e.convert(float_model, images)
    with torch.no_grad():
        equal = torch.equal(graph(images), pt2e.from_pt2e(float_model, graph)(images))
    return {"images": len(images), "equal": equal}


def error_by_layer(float_model: nn.Module, int8_model: nn.Module, data: Data) -> list[dict]:
    """A row per layer, from input to output.

    Columns: layer, worst, mean, and one for each of :data:`KINDS`. Worst and mean are the rounding error of its
    weights, batch norm folded, in steps. A kind has the signal-to-noise ratio of what the layer puts out, in dB
    (:func:`layer_errors`).
    """
    float_model, int8_model = (duplicate(each).cpu().eval() for each in (float_model, int8_model))
    batch = data.normalize(data.validation.images).cpu()
    noise = {kind: layer_errors(float_model, each, batch) for kind, each in _kinds(float_model, int8_model).items()}
    folded, rows = weight_layers(fold_batch_norm(float_model)), []
    for name, layer in weight_layers(int8_model).items():
        step = layer.weight_scale.view(-1, *[1] * (layer.weight.dim() - 1))
        error = ((folded[name].weight.detach() - layer.dequantized_weight()) / step).abs()
        row = {"layer": name, "worst": error.max().item(), "mean": error.mean().item()}
        rows.append(row | {kind: found[name] for kind, found in noise.items()})
    return rows


@torch.no_grad()
def layer_errors(float_model: nn.Module, model: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Layer → signal-to-quantization-noise ratio of its output, 10 log₁₀ (Σ y² / Σ (y − ŷ)²) in dB.

    ŷ is the output of the int8 ``model`` on the same images, with all the error of earlier layers.

    Args:
        images: (n, c, h, w) float32, normalized.
    """
    outputs: list[dict[str, torch.Tensor]] = []
    for each in (fold_batch_norm(float_model), duplicate(model)):
        found: dict[str, torch.Tensor] = {}
        for name, layer in weight_layers(each.cpu().eval()).items():
            layer.register_forward_hook(lambda _m, _i, output, name=name, found=found: found.update({name: output}))
        each(images.cpu())
        outputs.append(found)
    clean, noisy = outputs
    noise = {name: float((clean[name] - noisy[name]).double().square().sum()) for name in clean}
    signal = {name: float(clean[name].double().square().sum()) for name in clean}
    return {name: 10 * math.log10(signal[name] / noise[name]) if noise[name] else math.inf for name in clean}


def with_activations(model: nn.Module, float_model: nn.Module, activations: str) -> nn.Module:
    """The int8 ``model`` of ``float_model`` with its inputs rounded otherwise: static, dynamic or float.

    Weights, their scales and biases stay; "dynamic" and "float" (weight-only quantization) need no calibration.

    Raises:
        SpecError: an unknown name.
    """
    structure = {**model.spec["changes"][-1]["structure"], "activations": activations}
    new = duplicate(float_model).cpu().eval()
    int8_layers.restructure(new, structure)
    known = new.state_dict()
    new.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in known})
    did = {"layers": len(structure["layers"])}
    return spec.with_change(new, model.spec["changes"][-1]["technique"], did, structure)


def _kinds(float_model: nn.Module, int8_model: nn.Module) -> Networks:
    return {name: with_activations(int8_model, float_model, kind) for kind, name in KINDS.items()}


def timed(settings: Latency) -> dict:
    """How latencies are taken here: compiled (whether asked for and possible), and images a batch."""
    return {"compiled": settings.compiled and cost.why_not_compile() is None, "batch": settings.batch}


def kinds(float_model: nn.Module, int8_model: nn.Module, data: Data, how: dict) -> list[dict]:
    """A row for the float network and for each of :data:`KINDS`, on the CPU.

    Columns:
        kind: "float32" or one of :data:`KINDS`.
        accuracy, nll, ece: of validation images; nll in nats.
        bytes: of the parameters.
        ms: median of :data:`REPEATS` forward passes, all networks in turn, so that a disturbance meets all.

    Args:
        how: as :func:`timed` gives it.
    """
    float_model, int8_model = (duplicate(each).cpu().eval() for each in (float_model, int8_model))
    everyone, inputs = (
        {"float32": float_model, **_kinds(float_model, int8_model)},
        cost.example(data.model_args, how["batch"]),
    )
    timers = {kind: cost.timer(each, inputs, compiled=how["compiled"]) for kind, each in everyone.items()}
    times = cost.in_turn(list(timers.values()), REPEATS)
    rows = []
    for (kind, each), ms in zip(everyone.items(), times, strict=True):
        scored = scoring.scores(scoring.predict(each, data.validation, data), data.validation.labels)
        took = {"bytes": size.accountings(each)["bytes_dense"], "ms": ms}
        rows.append({"kind": kind, **scored, **took})
    return rows


@dataclasses.dataclass(frozen=True)
class Moved:
    """What int8 did to a network: ``images``, measure → a value for each validation image, and its weights by layer.

    Measures: KL (divergence of the predicted probabilities, nats), loss (its change, nats), flips (1: another label).
    ``weights`` are pairs of float32 tensors, before and after, batch norm folded.
    """

    images: dict[str, np.ndarray]
    weights: list[tuple[torch.Tensor, torch.Tensor]]


def moved(networks: Networks, data: Data, *, calibration_images: int, seed: int) -> dict[str, Moved]:
    """Name → what int8 does to each of the float ``networks``."""
    found = {}
    for name, model in networks.items():
        int8_model = int8.apply(model, data, calibration_images=calibration_images, seed=seed)
        predicted = (scoring.predict(each, data.validation, data).cpu().double() for each in (model, int8_model))
        z, zq = (logits.log_softmax(1) for logits in predicted)
        before, after = (F.nll_loss(each, data.validation.labels.cpu(), reduction="none") for each in (z, zq))
        kl = F.kl_div(zq, z, reduction="none", log_target=True).sum(1)
        flips = (z.argmax(1) != zq.argmax(1)).double()
        exact = weight_layers(fold_batch_norm(duplicate(model).cpu()))
        layers = weight_layers(int8_model).items()
        weights = [(exact[layer].weight.detach(), each.dequantized_weight()) for layer, each in layers]
        images = {"KL": kl.numpy(), "loss": (after - before).numpy(), "flips": flips.numpy()}
        found[name] = Moved(images, weights)
    return found


def lose_less(found: dict[str, Moved]) -> list[dict]:
    """Rows of network, measure, mean, and low and high: the interval over images, None where there is none.

    The measures are those of :class:`Moved` and "relative weight error" (:func:`relative_error`). The latter has a
    third network: the dense one's weights at the positions that pruning keeps. No pruned network: no rows.
    """
    if PRUNED not in found:
        return []
    dense, pruned = found[DENSE], found[PRUNED]
    everything, kept = (
        [torch.ones_like(w, dtype=torch.bool) for w, _ in dense.weights],
        [w != 0 for w, _ in pruned.weights],
    )
    alike = {
        DENSE: relative_error(dense.weights, everything),
        "dense, where pruning keeps": relative_error(dense.weights, kept),
        PRUNED: relative_error(pruned.weights, kept),
    }
    none = {"low": None, "high": None}
    rows = [
        {"network": name, "measure": "relative weight error", "mean": error, **none} for name, error in alike.items()
    ]
    for name, each in found.items():
        rows += [{"network": name, "measure": measure, **_mean(values)} for measure, values in each.images.items()]
    return rows


def relative_error(weights: list[tuple[torch.Tensor, torch.Tensor]], keep: list[torch.Tensor]) -> float:
    """Root of the mean over layers of Σ (w − ŵ)² / Σ w², both sums over the positions of ``keep`` (bool)."""
    shares = [(w - v)[k].square().sum() / w[k].square().sum() for (w, v), k in zip(weights, keep, strict=True)]
    return (sum(shares) / len(shares)).sqrt().item()


def pruned_less_dense(found: dict[str, Moved]) -> list[dict]:
    """Rows of measure (KL, loss), mean, low and high of the differences image by image (nats); none without pruned."""
    if PRUNED not in found:
        return []
    pairs = {measure: [found[name].images[measure] for name in (PRUNED, DENSE)] for measure in ("KL", "loss")}
    return [{"measure": measure, **_mean(pruned - dense)} for measure, (pruned, dense) in pairs.items()]


def _mean(values: np.ndarray) -> dict[str, float]:
    low, high = t_interval(values)
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def claims_of(metrics: dict, float_model: nn.Module, int8_model: nn.Module, data: Data) -> dict[str, claims.Measured]:
    """What the int8 network says of the paper's claims; its cost is image by image of the validation set.

    Dynamic quantization is the survey's, of linear layers alone: three of four bytes of their weights.
    """
    float_model, int8_model = (duplicate(each).cpu().eval() for each in (float_model, int8_model))
    whole = size.accountings(float_model)["bytes_dense"]
    linear = sum(m.weight.numel() for m in weight_layers(int8_model).values() if m.weight.dim() == 2)
    guesses = [scoring.predict(each, data.validation, data).argmax(1).cpu() for each in (float_model, int8_model)]
    before, after = ((guess == data.validation.labels.cpu()).double() for guess in guesses)
    saved = claims.Measured(100 * (1 - metrics["bytes_dense"] / whole))
    return {
        "int8_saved": saved,
        "static_saved": saved,
        "dynamic_saved": claims.Measured(100 * 3 * linear / whole),
        "int8_cost": claims.Measured(*(100 * number for number in over_both((before - after).numpy()))),
    }


def said_of_kinds(rows: pd.DataFrame) -> str:
    """Of the rows of :func:`kinds`: accuracy of each, and its bytes and time as a share of the float network's."""
    by_kind = rows.set_index("kind")
    base = by_kind.loc["float32"]
    said = []
    for kind, row in by_kind.iterrows():
        shares = f"{row.bytes / base.bytes:.1%} of the bytes, {row.ms / base.ms:.2f} of the time"
        said.append(f"{kind}: accuracy {row.accuracy:.2%}, {shares}")
    return "; ".join(said)


def said_of_pruned(rows: pd.DataFrame, differences: pd.DataFrame) -> str:
    """What the rows of :func:`lose_less` and :func:`pruned_less_dense` say of the guess, or that there are none."""
    if rows.empty:
        return "No pruned network was named, so this was not measured."
    far = {HURT: "less", HELP: "more", UNKNOWN: "neither more nor less for certain"}
    kl = differences.set_index("measure").loc["KL"]
    mean = rows.set_index(["measure", "network"])["mean"]
    weights = mean["relative weight error"]
    return (
        f"On this seed, probabilities of the pruned network move {far[judge((kl['low'], kl['high']))]}: "
        f"KL {mean['KL', PRUNED]:.5f} against {mean['KL', DENSE]:.5f} nats. "
        f"Relative weight error {weights[PRUNED]:.4f} against {weights[DENSE]:.4f}, but "
        f"{weights['dense, where pruning keeps']:.4f} in the dense network at the positions that pruning keeps."
    )
