"""The integers that a weight of so many bits may be, and the step between them: one grid for inference and training."""

import torch

AMIN, AMAX = 0, 255  # uint8 activations
QMIN, QMAX = -128, 127  # int8 weights; also of fewer bits, whose integers lie within
LEAST = torch.finfo(torch.float32).tiny  # scale, 2⁻¹²⁶: scales are divided by; torchao's, 2⁻¹², make small layers zero


def limits(bits: int) -> tuple[int, int]:
    """The least and the largest integer of a weight of ``bits`` bits."""
    return (QMIN, QMAX) if bits == 8 else (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1)


def steps(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """(out, 1): the scale that ``bits`` bits give each of ``rows`` (out, n); 1 for a row of zeros, which needs none."""
    low, high = limits(bits)
    largest = rows.abs().amax(1, keepdim=True)
    return torch.where(largest > 0, (largest / ((high - low) / 2)).clamp(min=LEAST), 1)


def rounded_weight(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """``weight`` (out, …) on the grid of ``bits`` bits that quantization gives each of its channels."""
    rows = weight.flatten(1)
    scale = steps(rows, bits)
    return ((rows / scale).round().clamp(*limits(bits)) * scale).view(weight.shape)
