"""What a network may be so that its coded file can be read, known before anything is trained."""

import torch

from studylib import codec, inference, models
from studylib.data import Data


def check_network(name: str, args: dict, data: Data, asked: str) -> None:
    """Builds a network without memory for it, and holds it against the limits of a coded file.

    A layer's width is in the file where channels were sliced away, and may there be no larger than other numbers.

    Args:
        name, args: as for :func:`studylib.models.create`; what ``data`` asks for is added.
        asked: the setting that asks for it, for the message.

    Raises:
        ValueError: the network does not build, or is larger than :class:`studylib.codec.Limits` allows.
    """
    limits = codec.Limits()
    numbers = [each for value in args.values() for each in (value if isinstance(value, list) else [value])]
    if max(numbers, default=0) > limits.integer:
        raise ValueError(f"{asked}: {max(numbers)} in it, expected at most {limits.integer}")
    spec = {"format": models.SPEC_FORMAT, "name": name, "args": args | data.model_args, "changes": []}
    with torch.device("meta"):
        model = models.build(spec)
        inference.restructure(model, {"widths": {}})
    layers = models.weight_layers(model).values()
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
