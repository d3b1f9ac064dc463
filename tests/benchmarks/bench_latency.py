"""int8_over_float_latency: a compiled int8 network over the same in float, one thread, batch 64, 32 × 32.

Of the ConvNet; with the name of another network before it, of that: resnet_int8_over_float_latency is ResNet-20's.

onnxruntime_int8_over_float_latency: ONNX Runtime's static int8 of the same network over the same compiled float.
"""

import contextlib
import importlib.util
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from harness import pair
from torch import nn

from studylib.networks import cost, pt2e, spec

ARGS = {"in_channels": 3, "image_size": 32}
NETWORKS = {"": ("convnet", {}), "densenet22_": ("densenet", {"depth": 22}), "resnet_": ("resnet", {})}
NETWORKS |= {"mobilenetv2_0.5_": ("mobilenetv2", {"width": 0.5}), "vgg16_16_": ("vgg16", {"width": 16})}
NEEDED = ["onnx", "onnxruntime", "onnxscript"]


def run() -> dict:
    threads, rows = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(f"onnxruntime_int8_over_float_latency is left out: {', '.join(missing)} not installed (the extra bench)")
    try:
        for prefix, (name, args) in NETWORKS.items():
            model = spec.create(name, 0, **ARGS, **args).eval()
            images = cost.example(ARGS, 64)
            compiled = cost.timer(model, images)
            int8 = pt2e.from_pt2e(model, pt2e.convert(model, images))
            ways = {"int8_over_float_latency": cost.timer(int8, images)}
            if not missing:
                ways["onnxruntime_int8_over_float_latency"] = _onnxruntime_timer(model, images)
            for way, timer in ways.items():
                rows[prefix + way] = pair(timer, compiled, n=30, unit="ms")
    finally:
        torch.set_num_threads(threads)
    return rows


def _onnxruntime_timer(model: nn.Module, images: torch.Tensor) -> Callable[[], float]:
    """As :func:`studylib.networks.cost.timer`, of ONNX Runtime's int8: QDQ, a scale a channel, one thread."""
    import onnxruntime
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feed = {"images": images.numpy()}

    class Calibration(quantization.CalibrationDataReader):
        def __init__(self):
            self.batches = iter([feed])

        def get_next(self):
            return next(self.batches, None)

    with tempfile.TemporaryDirectory() as folder, _silence():
        exported, prepared, int8 = (Path(folder) / name for name in ("exported.onnx", "prepared.onnx", "int8.onnx"))
        torch.onnx.export(model, (images,), exported, input_names=list(feed), dynamo=True)
        quant_pre_process(exported, prepared)
        kinds = {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
        quantization.quantize_static(prepared, int8, Calibration(), per_channel=True, **kinds)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(int8, options, providers=["CPUExecutionProvider"])

    def once() -> float:
        start = time.perf_counter()
        session.run(None, feed)
        return 1000 * (time.perf_counter() - start)

    for _ in range(3):
        once()
    return once


@contextlib.contextmanager
def _silence():
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
