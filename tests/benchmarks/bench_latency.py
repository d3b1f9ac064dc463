"""int8_over_float_latency: a compiled int8 network over the same in float, one thread, batch 64, 32 × 32."""

import torch
from harness import pair

from studylib import latency, models, quantize, size

ARGS = {"in_channels": 3, "image_size": 32}


def run() -> dict:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {
            "int8_over_float_latency": _pair("convnet", {}),
            "int8_over_float_latency_densenet22": _pair("densenet", {"depth": 22}),
        }
    finally:
        torch.set_num_threads(threads)


def _pair(name: str, args: dict) -> dict:
    model = models.create(name, 0, **ARGS, **args).eval()
    images = size.example(ARGS, 64)
    int8 = quantize.from_pt2e(model, quantize.convert(model, images))
    timers = [latency.timer(m, images) for m in (int8, model)]
    return pair(*timers, n=30, unit="ms")
