"""Low-rank layers: two linear layers in the place of one."""

from torch import nn

from studylib.networks.blocks import SpecError
from studylib.networks.layers import replace_module


class LowRankLinear(nn.Sequential):
    """Two linear layers of rank r in the place of one: in → r without bias, r → out with the old bias."""

    def __init__(self, in_features: int, rank: int, out_features: int, bias: bool):
        super().__init__()
        self.first = nn.Linear(in_features, rank, bias=False)
        self.second = nn.Linear(rank, out_features, bias=bias)


def restructure(model: nn.Module, structure: dict) -> None:
    """Puts empty low-rank layers in the place of those in ``structure["ranks"]`` (name → rank), in place."""
    for name, rank in structure["ranks"].items():
        layer = model.get_submodule(name)
        if not isinstance(layer, nn.Linear) or not 1 <= rank <= min(layer.weight.shape):
            raise SpecError(f"{name}: expected a linear layer of rank at least {rank!r}")
        new = LowRankLinear(layer.in_features, rank, layer.out_features, layer.bias is not None)
        replace_module(model, name, new)
