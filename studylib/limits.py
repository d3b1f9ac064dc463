"""What a network may be so that its coded file can be read again."""

import torch

from studylib import codec, inference, models
from studylib.data import Data


def check_network(name: str, args: dict, data: Data, asked: str) -> None:
    """Raises ValueError for a network that is too large for a coded file; no memory is taken for its weights.

    A layer's width is in the file where channels were sliced away, and may there be no larger than other numbers.

    Args:
        name, args: of :func:`studylib.models.create`, without what the data decide.
        data: whose images and classes the network is for.
        asked: the setting that asks for it, as messages begin: ``networks='vgg 300'``.

    Raises:
        ValueError: a number, a layer, or the network is larger than :class:`studylib.codec.Limits` allow; or there is
            no such network for ``data``.
    """
    most = codec.Limits()
    numbers = [each for value in args.values() for each in (value if isinstance(value, list | tuple) else [value])]
    if max(numbers, default=0) > most.integer:
        raise ValueError(f"{asked}: {max(numbers)} in it, expected at most {most.integer}")
    spec = {"format": models.SPEC_FORMAT, "name": name, "args": args | data.model_args, "changes": []}
    try:
        with torch.device("meta"):
            model = models.build(spec)
            inference.restructure(model, {"widths": {}})
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{asked}: {error}") from error
    layers = models.weight_layers(model).values()
    widest = max(max(layer.weight.shape[:2]) for layer in layers)
    total = sum(t.numel() for t in model.state_dict().values()) + sum(len(layer.weight) + 2 for layer in layers)  # int8
    for what, found, bound in (
        ("channels or features in a layer", widest, most.integer),
        ("numbers", total, most.parameters),
        ("modules", sum(1 for _ in model.modules()), most.layers),
    ):
        if found > bound:
            raise ValueError(f"{asked}: {found} {what}, expected at most {bound} (a coded file's limit)")
