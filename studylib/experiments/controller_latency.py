"""How long the networks of chapter 14 take, and how many numbers their layers write."""

from pathlib import Path

import pandas as pd
import torch
from torch import nn

from studylib.coding import codec
from studylib.data.datasets import Data
from studylib.experiments.controller import KEYS, WHOLE
from studylib.networks import cost, layers, spec
from studylib.techniques.distill import Student


def latencies(rows: list[dict], network: Student, data: Data, out: Path, batch: int, rounds: int = 20) -> list[dict]:
    """Least milliseconds of each row's network for ``batch`` images, uncompiled, on the CPU; the networks take turns.

    In its turn a network passes twice, and the faster pass counts: the first may prepare kernels of its shapes. The
    least counts, as what else runs on the machine only adds. ``rounds`` is how many turns each has.

    Rows: way, budget, seed, multiply_adds, written, latency_ms.
    ``written`` are the numbers that all layers give for an image. The first row is of the whole network.
    """
    name, args = network.described(data.model_args)
    of = [{"way": WHOLE, "budget": 1.0, "seed": data.seed}, *({key: row[key] for key in KEYS} for row in rows)]
    models = [spec.create(name, data.seed, data=data, **args)]
    models += [codec.decode((out / row["file"]).read_bytes()) for row in rows]
    images = cost.example(data.model_args, batch)
    clocks = [cost.timer(model, images, compiled=False) for model in models]
    times = pd.DataFrame([[min(once(), once()) for once in clocks] for _ in range(rounds)]).min()
    counts = [
        {"multiply_adds": cost.multiply_adds(model, data.model_args), "written": written(model)} for model in models
    ]
    return [{**each, **count, "latency_ms": time} for each, count, time in zip(of, counts, times.tolist(), strict=True)]


@torch.no_grad()
def written(model: nn.Module) -> int:
    """Numbers that the convolutions and linear layers of ``model`` give for an image, all together."""
    found = []
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, outputs: found.append(outputs.numel()))
        for layer in layers.weight_layers(model).values()
    ]
    model.eval()(cost.example(model.spec["args"], 1))
    for hook in hooks:
        hook.remove()
    return sum(found)
