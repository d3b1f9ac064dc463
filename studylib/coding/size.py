"""How large a model is, by each accounting side by side, and what it computes."""

import json
import math

import numpy as np
import torch
import zstandard
from torch import nn

from studylib.coding import shipped
from studylib.coding.positions import entropy_bits
from studylib.disk import files
from studylib.networks.layers import fold_batch_norm, weight_layers


def inventory(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name → every tensor that inference needs: batch norms folded away, int8 weights as int8."""
    return fold_batch_norm(model).state_dict()


def accountings(model: nn.Module) -> dict[str, int]:
    """Parameters, nonzeros and bytes, by every way of counting that is met.

    =================  ===============================================================================
    parameters         numbers that inference needs, batch norm folded, scales and zero points included
    nonzeros           those less the zeros in the weights of convolutions and linear layers
    bytes_dense        each parameter at its width: 4 bytes in float32, 1 in int8, b / 8 in b bits
    bytes_nonzero      each nonzero at its width, positions free: the paper's accounting (section 3.1)
    bytes_csr          each weight tensor in CSR, see :func:`csr_bytes`
    bytes_bitmap       each weight tensor as one bit a weight and its nonzeros
    bytes_sparse       each weight tensor in the cheapest of dense, bitmap and CSR
    bytes_safetensors  one safetensors file of the inference form, the spec in its header
    bytes_zstd         that file through Zstandard, level 19
    bytes_entropy      the entropy bound of the inference form, see :func:`entropy_bound`
    =================  ===============================================================================

    The first seven are of ``model`` as it is, the last three of what is shipped (:mod:`studylib.coding.shipped`: dead
    channels sliced away), as is the file that :mod:`studylib.coding.codec` writes. A weight that several layers share
    counts in each of them: every file holds it so.
    """
    layers = weight_layers(model)
    kinds = ("dense", "nonzero", "csr", "bitmap", "sparse")
    total = dict.fromkeys(("parameters", "nonzeros", *(f"bytes_{kind}" for kind in kinds)), 0)
    for name, tensor in inventory(model).items():
        layer, _, field = name.rpartition(".")
        weight, count = field == "weight" and layer in layers, tensor.numel()
        nonzeros = int((tensor != 0).sum()) if weight else count
        bits = getattr(layers[layer], "bits", 8) if weight and tensor.dtype == torch.int8 else 8 * tensor.element_size()
        dense, values = math.ceil(count * bits / 8), math.ceil(nonzeros * bits / 8)
        csr, bitmap = (csr_bytes(tensor, bits), bitmap_bytes(tensor, bits)) if weight else (dense, dense)
        total["parameters"] += count
        total["nonzeros"] += nonzeros
        for kind, found in zip(kinds, (dense, values, csr, bitmap, min(dense, csr, bitmap)), strict=True):
            total[f"bytes_{kind}"] += found
    small = shipped.apply(model)
    file = files.safetensors_of(small.state_dict(), {"spec": json.dumps(small.spec)})
    return total | {
        "bytes_safetensors": len(file),
        "bytes_zstd": len(zstandard.ZstdCompressor(level=19).compress(file)),
        "bytes_entropy": entropy_bound(small),
    }


def entropy_bound(model: nn.Module) -> int:
    """Bytes of ``model`` by the zero-order entropies of its integer weights, everything else at its width.

    Of a weight tensor: cells × the entropy of being zero + nonzeros × the entropy of their values, or × 4 bytes of
    floats. A coder that knows more than counts can pass it; the spec and the counts themselves are not in it.
    """
    bits = 0.0
    weights = {f"{name}.weight" for name in weight_layers(model)}
    for name, tensor in model.state_dict().items():
        width, count = 8 * tensor.element_size(), tensor.numel()
        if name not in weights:
            bits += width * count
            continue
        nonzeros = tensor[tensor != 0]
        bits += entropy_bits(np.array([len(nonzeros), count - len(nonzeros)]))
        integer = not tensor.is_floating_point()
        values = nonzeros.unique(return_counts=True)[1].numpy()
        bits += entropy_bits(values) if integer else width * len(nonzeros)
    return math.ceil(bits / 8)


def sparse_bytes(tensor: torch.Tensor) -> int:
    """Bytes of ``tensor``, its values at their stored width, in the cheapest of dense, bitmap and CSR."""
    bits = 8 * tensor.element_size()
    return min(math.ceil(tensor.numel() * bits / 8), csr_bytes(tensor, bits), bitmap_bytes(tensor, bits))


def bitmap_bytes(tensor: torch.Tensor, bits: int) -> int:
    """Bytes of ``tensor`` as one bit a number and its nonzeros at ``bits`` each."""
    return math.ceil(tensor.numel() / 8) + math.ceil(int((tensor != 0).sum()) * bits / 8)


def csr_bytes(tensor: torch.Tensor, bits: int) -> int:
    """Bytes of ``tensor`` in compressed sparse rows, its values at ``bits`` each.

    Rows are the first dimension; one 4-byte pointer a row and one more, and a column index of the fewest whole
    bytes (1, 2 or 4) for each nonzero.
    """
    rows, count = tensor.shape[0] if tensor.dim() else 1, tensor.numel()
    nonzeros, columns = int((tensor != 0).sum()), max(1, count // max(1, rows))
    index = 1 if columns <= 2**8 else 2 if columns <= 2**16 else 4
    return 4 * (rows + 1) + nonzeros * index + math.ceil(nonzeros * bits / 8)
