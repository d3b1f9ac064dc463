"""What a coded file can hold, of a network that is asked for and not yet made."""

import torch

from studylib.coding.codec import MOST_SPEC, Limits
from studylib.data.datasets import Data
from studylib.networks import channels
from studylib.networks.layers import weight_layers
from studylib.networks.spec import SPEC_FORMAT, build


def check_network(name: str, args: dict, data: Data, asked: str) -> None:
    """Builds the network (:func:`studylib.networks.spec.create`) without memory; sees that its coded file can be read.

    A layer's width is in the file where channels were sliced away. There it may be no larger than other numbers. A
    layer's name stands there up to three times: alone, with its bits, with its widths.
    ValueError: it cannot be built, or is beyond :class:`studylib.coding.codec.Limits`. The message begins with the
    settings ``asked``, such as ``depth=40, growth=12``.
    """
    limits = Limits()
    numbers = [each for value in args.values() for each in (value if isinstance(value, list) else [value])]
    if max(numbers, default=0) > limits.integer:
        raise ValueError(f"{asked}: {max(numbers)} in it, expected at most {limits.integer}")
    spec = {"format": SPEC_FORMAT, "name": name, "args": args | data.model_args, "changes": []}
    with torch.device("meta"):
        model = build(spec)
        channels.restructure(model, {"widths": {}})
    layers = weight_layers(model).values()
    names = sum(3 * len(name) + 24 for name in weight_layers(model))
    widest = max(max(layer.weight.shape[:2]) for layer in layers)
    total = sum(t.numel() for t in model.state_dict().values()) + sum(len(layer.weight) + 2 for layer in layers)  # int8
    modules = sum(1 for _ in model.modules())
    counts = {"channels or features in a layer": widest, "numbers": total, "modules": modules, "bytes of names": names}
    bounds = limits.integer, limits.parameters, limits.layers, MOST_SPEC
    for (what, found), most in zip(counts.items(), bounds, strict=True):
        if found > most:
            raise ValueError(f"{asked}: {found} {what}, expected at most {most} (a coded file's limit)")
