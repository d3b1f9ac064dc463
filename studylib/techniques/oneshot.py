"""One-shot pruning: the weights that are worth least become zero at once, without training between."""

from torch import nn

from studylib.data.datasets import Data
from studylib.networks import saliency, spec
from studylib.networks.layers import duplicate, masks_of
from studylib.networks.layers import sparsity as sparsity_of
from studylib.settings import record


@record
class OneShot(saliency.Ranking):
    """How much :func:`apply` removes; the defaults are ours."""

    sparsity: saliency.Sparsity = 0.8
    scope: saliency.Scope = "global"


def apply(
    model: nn.Module,
    data: Data | None = None,
    *,
    sparsity: float = 0.8,
    scope: str = "global",
    criterion: str = "magnitude",
    calibration_images: int = 512,
    seed: int = 0,
) -> nn.Module:
    """Zeros the weights that are worth least until the share ``sparsity`` is zero, or more were (Han et al. 2015).

    Args:
        data: for criteria that see training images.
        scope: "global" ranks the weights of all layers together, "layer" those of each.
        criterion, calibration_images, seed: as for :func:`studylib.networks.saliency.saliencies`.

    Raises:
        ValueError: a setting is out of range, or as :func:`studylib.networks.saliency.saliencies`.
    """
    by = {"criterion": criterion, "calibration_images": calibration_images}
    OneShot(**by, sparsity=sparsity, scope=scope)  # refuses what is out of range
    new, values = duplicate(model), saliency.saliencies(model, data, **by, seed=seed)
    saliency.zero(new, saliency.at_sparsity(values, masks_of(model), sparsity, scope))
    did = {"scope": scope, "criterion": criterion, "sparsity": sparsity_of(new)}
    return spec.with_change(new.eval(), "oneshot", did)
