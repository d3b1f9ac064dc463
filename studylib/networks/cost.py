"""How fast a model is: one forward pass over a batch, with nothing else running."""

import json
import logging
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch._inductor import config as inductor

from studylib.networks import layers
from studylib.networks.quiet import quiet_torchao


def multiply_adds(model: nn.Module, model_args: dict) -> int:
    """Multiply-adds of one image or block through convolutions, linear layers and attention, zeros counted, too."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(iter(model.state_dict().values())).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example(model_args, 1).to(device))
    return counter.get_total_flops() // 2


def example(model_args: dict, count: int) -> torch.Tensor:
    """``count`` images of noise, (count, c, h, w) float32, or blocks (count, context); the same at every call."""
    if "context" in model_args:
        shape, draw = (count, model_args["context"]), torch.Generator().manual_seed(0)
        return torch.randint(model_args["characters"], shape, generator=draw)
    shape = (count, model_args["in_channels"], model_args["image_size"], model_args["image_size"])
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def peak_memory_mb() -> float:
    """Most memory this process has had resident so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def structure_of(model: nn.Module) -> str:
    """What decides the speed of a dense kernel: name, arguments and structural changes, as one line of JSON."""
    changes = [change["structure"] for change in model.spec["changes"] if "structure" in change]
    return json.dumps([model.spec["name"], model.spec["args"], changes], sort_keys=True)


def in_turn(timers: list[Callable[[], float]], repeats: int = 30) -> list[float]:
    """Median milliseconds of each of ``timers`` (:func:`timer`): they take turns, so that a disturbance meets all."""
    found = [[once() for once in timers] for _ in range(repeats)]
    return [statistics.median(each) for each in zip(*found, strict=True)]


def timer(model: nn.Module, images: torch.Tensor, *, compiled: bool = True) -> Callable[[], float]:
    """A function that runs the warmed-up ``model`` once and returns how many milliseconds it took.

    ``images``: (n, c, h, w) float32 or blocks (n, context), on the model's device. ``compiled``: by torch.compile with
    frozen weights, so that int8 layers run in int8 kernels; else operation by operation.
    """
    model = layers.duplicate(model).eval()
    if images.dim() == 4:
        model, images = (each.to(memory_format=torch.channels_last) for each in (model, images))
    if compiled:
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # that there is no CUDA is no news
        with quiet_torchao():  # this import alone has Inductor turn int8 layers into int8 kernels
            from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer  # noqa: F401
        model = torch.compile(model)

    @torch.no_grad()
    def once() -> float:
        start = time.perf_counter()
        model(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start)

    with inductor.patch(freezing=True):
        for _ in range(3):
            once()
    return once


def why_not_compile() -> str | None:
    """None where torch.compile works; else why not, such as a machine without a C++ compiler or Python's headers."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8))
    except Exception as error:
        return f"torch.compile does not work here ({str(error).strip().splitlines()[0]})"
    return None
