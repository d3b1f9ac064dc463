"""What a coded file can hold, of a network that is asked for and not yet made."""

import torch

from studylib.coding.codec import Limits
from studylib.data.datasets import Data
from studylib.networks import channels
from studylib.networks.layers import weight_layers
from studylib.networks.spec import SPEC_FORMAT, build


def check_network(name: str, args: dict, data: Data, asked: str) -> None:
    """Builds the network for ``data`` without memory for its weights, and sees that its coded file can be read.

    A layer's width is in the file where channels were sliced away, and may there be no larger than other numbers.

    Args:
        name, args: as for :func:`studylib.networks.spec.create`; what fits it to the data is added.
        asked: the settings that ask for it, such as ``depth=40, growth=12``; the messages begin with them.

    Raises:
        ValueError: it cannot be built, or is wider, larger or deeper than :class:`studylib.coding.codec.Limits` allow.
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
    widest = max(max(layer.weight.shape[:2]) for layer in layers)
    total = sum(t.numel() for t in model.state_dict().values()) + sum(len(layer.weight) + 2 for layer in layers)  # int8
    modules = sum(1 for _ in model.modules())
    for what, found, most in (
        ("channels or features in a layer", widest, limits.integer),
        ("numbers", total, limits.parameters),
        ("modules", modules, limits.layers),
    ):
        if found > most:
            raise ValueError(f"{asked}: {found} {what}, expected at most {most} (a coded file's limit)")
