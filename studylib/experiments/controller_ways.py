"""How the ways of chapter 14 rank channels, pull groups to zero, and take channels out."""

import torch
from torch import nn

from studylib.networks import cost, filters, layers, saliency, spec
from studylib.networks.gates import Gates
from studylib.techniques import structural
from studylib.training.step import Step

SPARSE = "sparse groups"


def worths(model: nn.Module, gates: Gates, way: str) -> torch.Tensor:
    """What each channel of ``gates`` is worth in ``model``, (n,), as ``way`` ranks them; ValueError: it cannot.

    "global": the norm of its rows beside the family's mean. "uniform" and "narrow": its rank in the family by that
    norm, a share of it. "slimming": its batch norms' scales (Liu et al. 2017). "group norm" and "sparse groups":
    torch-pruning's, over rows, batch norms and readers' columns (Fang et al. 2023, section 3.3). That is beside the
    mean of its group.
    """
    if way in ("group norm", SPARSE):
        return _group_norms(model, gates)
    values = None if way == "slimming" else saliency.saliencies(model)
    score = structural.worth(model, gates.found, values)
    if missing := [channel for channel in gates.channels if channel not in score]:
        raise ValueError(f"{way}: expected a batch norm behind each channel, {len(missing)} have none")
    parts = torch.tensor([score[channel] for channel in gates.channels]).split(gates.sizes)
    if way in ("uniform", "narrow"):
        return torch.cat([part.argsort().argsort() / len(part) for part in parts])
    return torch.cat(parts if way == "slimming" else [part / part.mean() for part in parts])


def _group_norms(model: nn.Module, gates: Gates) -> torch.Tensor:
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
    images = cost.example(model.spec["args"], 1).to(next(model.parameters()).device)
    with torch.enable_grad():
        graph.build_dependency(model, images, verbose=False)
    found = []
    for name, family in gates.found.families.items():
        layer = model.get_submodule(name)
        prune = graph.get_pruner_of_module(layer).prune_out_channels
        group = graph.get_pruning_group(layer, prune, list(range(len(layer.weight))))
        found.append(torch_pruning.importance.GroupMagnitudeImportance(p=2)(group)[[row for _, row in family]])
    return torch.cat(found).cpu()


class SparseGroups(Step):
    """Pulls groups to zero as they train, the smaller ones more: torch-pruning's (Fang et al. 2023, section 3.3).

    Args:
        gates: of the model that is trained.
        weight: of the pull.
    """

    label = "the loss and the group norm"

    def __init__(self, gates: Gates, weight: float):
        self.gates, self.weight, self.identity = gates, weight, ["sparse groups", weight]

    def start(self, model: nn.Module, masks: dict[str, torch.Tensor] | None = None) -> None:
        import torch_pruning

        pruned = {part.name for part in self.gates.makers}
        stay = [layer for name, layer in layers.weight_layers(model).items() if name not in pruned]
        images = cost.example(model.spec["args"], 1).to(next(model.parameters()).device)
        norm = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        self.pruner = torch_pruning.pruner.GroupNormPruner(
            model, images, importance=norm, reg=self.weight, ignored_layers=stay
        )

    def gradients(self, model, value, logits, batch) -> bool:
        value.backward()
        self.pruner.regularize(model)
        return True


def without(model: nn.Module, gates: Gates, opened: torch.Tensor, way: str) -> nn.Module:
    """A copy of ``model`` without the channels that are not ``opened``, its change recorded."""
    new, structure = filters.removed(model, gates.found, gates.closed(opened))
    return spec.with_change(new, "structural", {"criterion": way, "of": len(gates)}, structure)
