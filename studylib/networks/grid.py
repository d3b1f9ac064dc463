"""The grid of a weight's bits, its integers and the step between them, the same for inference and training."""

import torch
import torch.nn.functional as F

AMIN, AMAX = 0, 255  # uint8 activations
QMIN, QMAX = -128, 127  # int8 weights; also of fewer bits, whose integers lie within
LEAST = torch.finfo(torch.float32).tiny  # scale, 2⁻¹²⁶: scales are divided by; torchao's, 2⁻¹², make small layers zero


def limits(bits: int) -> tuple[int, int]:
    """The least and the largest integer of a weight of ``bits`` bits. One bit is a sign, and 0 stays 0."""
    if bits == 1:
        return -1, 1
    return (QMIN, QMAX) if bits == 8 else (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


def grouped(rows: torch.Tensor, groups: int) -> torch.Tensor:
    """(out, groups, n): ``rows`` (out, …) in as many parts, each of as many neighbours; zeros fill up the last."""
    rows = rows.flatten(1)
    size = -(-rows.shape[1] // groups)
    return F.pad(rows, (0, groups * size - rows.shape[1])).unflatten(1, (groups, size))


def has_weights(weight: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Bool (out,), or (out, groups) as ``shape`` says: whether a scale of ``weight`` (out, …) has one that is not 0."""
    live = weight != 0
    return grouped(live, shape[1]).any(-1) if len(shape) > 1 else live.flatten(1).any(1)


def steps(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """(out, 1): the scale that ``bits`` bits give each of ``rows`` (out, n); 1 for a row of zeros.

    Of one bit it is the mean magnitude of what is not zero. No scale of ±1 has a smaller squared error (Rastegari et
    al. 2016, equation 6).
    """
    low, high = limits(bits)
    largest = rows.abs().amax(1, keepdim=True)
    if bits == 1:
        mean = rows.abs().sum(1, keepdim=True) / (rows != 0).sum(1, keepdim=True).clamp(min=1)
        return torch.where(largest > 0, mean.clamp(min=LEAST), 1)
    return torch.where(largest > 0, (largest / ((high - low) / 2)).clamp(min=LEAST), 1)


def integers(rows: torch.Tensor, scale: torch.Tensor, bits: int) -> torch.Tensor:
    """Whole numbers, in floats, of ``rows`` (out, n) at ``scale`` (out, 1): the nearest ones; of one bit, signs."""
    return rows.sign() if bits == 1 else (rows / scale).round().clamp(*limits(bits))


def rounded_weight(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """``weight`` (out, …) on the grid of ``bits`` bits that quantization gives each of its channels."""
    rows = weight.flatten(1)
    scale = steps(rows, bits)
    return (integers(rows, scale, bits) * scale).view(weight.shape)
