"""Group-wise pruning: whole kernels, what a filter has for one of its input channels, become zero."""

import logging

from torch import nn

from studylib.data.datasets import Data
from studylib.networks import saliency, spec
from studylib.networks.layers import duplicate, masks_of
from studylib.networks.layers import sparsity as sparsity_of
from studylib.settings import record

log = logging.getLogger(__name__)


@record
class Kernels(saliency.Ranking):
    """How much :func:`apply` removes; the defaults are ours."""

    sparsity: saliency.Sparsity = 0.5
    scope: saliency.Scope = "layer"


def apply(
    model: nn.Module,
    data: Data | None = None,
    *,
    sparsity: float = 0.5,
    scope: str = "layer",
    criterion: str = "magnitude",
    calibration_images: int = 512,
    seed: int = 0,
) -> nn.Module:
    """Zeros the share ``sparsity`` of the k × k kernels, those that are worth least (Anwar et al. 2017).

    A kernel is worth the root mean square of its weights' saliencies. Layers without kernels, linear ones and 1 × 1
    convolutions, are left alone.

    Args:
        data: for criteria that see training images.
        scope: "global" ranks the kernels of all layers together, "layer" those of each.
        criterion, calibration_images, seed: as for :func:`studylib.networks.saliency.saliencies`.

    Raises:
        ValueError: a setting is out of range, or no layer has kernels. Else as
            :func:`studylib.networks.saliency.saliencies`.
    """
    by = {"criterion": criterion, "calibration_images": calibration_images}
    Kernels(**by, sparsity=sparsity, scope=scope)  # refuses what is out of range
    new, masks, values = duplicate(model), masks_of(model), saliency.saliencies(model, data, **by, seed=seed)
    kernels = {name: value for name, value in values.items() if value[0, 0].numel() > 1}
    if not kernels:
        raise ValueError("no convolution has kernels of more than one weight: expected some to prune")
    if left := [name.removesuffix(".weight") for name in values.keys() - kernels.keys()]:
        log.info("%s are left alone: they have no kernels", ", ".join(sorted(left)))
    worth = {name: value.double().square().mean((2, 3)).sqrt() for name, value in kernels.items()}
    alive = {name: masks[name].flatten(2).any(2) for name in kernels}
    found = saliency.at_sparsity(worth, alive, sparsity, scope)
    saliency.zero(new, {name: mask[:, :, None, None] for name, mask in found.items()})
    did = {"scope": scope, "criterion": criterion, "kernels": sparsity, "sparsity": sparsity_of(new)}
    return spec.with_change(new.eval(), "kernels", did)
