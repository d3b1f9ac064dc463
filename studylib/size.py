"""How large a model is, by each accounting side by side, and what it computes."""

import math
import resource
from pathlib import Path

import torch
from torch import nn

from studylib import models, store


def inventory(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name → every tensor that inference needs: batch norms folded away, int8 weights as int8."""
    return models.fold_batch_norm(model).state_dict()


def accountings(model: nn.Module) -> dict[str, int]:
    """Parameters, nonzeros and bytes.

    ==============  ==================================================================================
    parameters      numbers that inference needs, batch norm folded, scales and zero points included
    nonzeros        those less the zeros in the weights of convolutions and linear layers
    bytes_dense     each parameter at its stored width: 4 bytes in float32, 1 in int8
    bytes_nonzero   each nonzero at its stored width, positions free: the paper's accounting (section 3.1)
    bytes_sparse    each weight tensor in the cheapest of dense, bitmap and CSR, positions paid for
    ==============  ==================================================================================
    """
    weights = {f"{name}.weight" for name in models.weight_layers(model)}
    total = dict.fromkeys(("parameters", "nonzeros", "bytes_dense", "bytes_nonzero", "bytes_sparse"), 0)
    for name, tensor in inventory(model).items():
        width, count = tensor.element_size(), tensor.numel()
        nonzeros = int((tensor != 0).sum()) if name in weights else count
        total["parameters"] += count
        total["nonzeros"] += nonzeros
        total["bytes_dense"] += count * width
        total["bytes_nonzero"] += nonzeros * width
        total["bytes_sparse"] += sparse_bytes(tensor) if name in weights else count * width
    return total


def sparsity(model: nn.Module) -> float:
    """Share of the weights of convolutions and linear layers, float or int8, that are zero."""
    weights = [layer.weight for layer in models.weight_layers(model).values()]
    return 1 - sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def sparse_bytes(tensor: torch.Tensor) -> int:
    """Bytes of ``tensor`` stored dense, as a bitmap + nonzeros, or as CSR, whichever is least.

    CSR: rows are the first dimension; one 4-byte pointer a row and one more, and a column index of the
    fewest whole bytes (1, 2 or 4) for each nonzero.
    """
    rows, count, width = tensor.shape[0] if tensor.dim() else 1, tensor.numel(), tensor.element_size()
    nonzeros, columns = int((tensor != 0).sum()), max(1, count // max(1, rows))
    index = 1 if columns <= 2**8 else 2 if columns <= 2**16 else 4
    dense, bitmap = count * width, math.ceil(count / 8) + nonzeros * width
    return min(dense, bitmap, 4 * (rows + 1) + nonzeros * (index + width))


def file_bytes(folder: Path) -> int:
    """Bytes of the files that hold the model in ``folder``: its tensors and its spec."""
    return sum((Path(folder) / name).stat().st_size for name in (store.TENSORS, store.SPEC))


def multiply_adds(model: nn.Module, model_args: dict) -> int:
    """Multiply-adds of one image through the convolutions and linear layers, zeros counted as any weight."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(iter(model.state_dict().values())).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example(model_args, 1).to(device))
    return counter.get_total_flops() // 2


def example(model_args: dict, count: int) -> torch.Tensor:
    """``count`` images of normal noise, the same at every call, (count, c, h, w) float32."""
    shape = (count, model_args["in_channels"], model_args["image_size"], model_args["image_size"])
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def peak_memory_mb() -> float:
    """Most memory this process has had resident so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
