"""Pruning by a threshold: weights below it become zero, at once and in each layer for itself."""

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks import saliency, spec
from studylib.networks.layers import duplicate, masks_of, sparsity
from studylib.settings import record


@record
class Threshold(saliency.Ranking):
    """What :func:`apply` removes; the default is a guess between the thresholds that Han et al. 2015 used."""

    bound: Annotated[float, Field(ge=0, le=1e6, description="what is worth less becomes zero")] = 1.0
    unit: Annotated[
        Literal["deviation", "absolute"], Field(description="of the bound: the layer's standard deviation, or 1")
    ] = "deviation"


def apply(
    model: nn.Module,
    data: Data | None = None,
    *,
    bound: float = 1.0,
    unit: str = "deviation",
    criterion: str = "magnitude",
    calibration_images: int = 512,
    seed: int = 0,
) -> nn.Module:
    """Zeros each weight that is worth less than ``bound`` (Han et al. 2015: times the layer's deviation).

    Args:
        data: for criteria that see training images.
        unit: "deviation" is that of the layer's saliencies, which for "magnitude" are its weights. "absolute" is 1.
        criterion, calibration_images, seed: as for :func:`studylib.networks.saliency.saliencies`.

    Raises:
        ValueError: a setting is out of range, or the bound leaves no weight. Else as
            :func:`studylib.networks.saliency.saliencies`.
    """
    by = {"criterion": criterion, "calibration_images": calibration_images}
    Threshold(**by, bound=bound, unit=unit)  # refuses what is out of range
    new, masks, most = duplicate(model), masks_of(model), 0.0
    for name, value in saliency.saliencies(model, data, **by, seed=seed).items():
        step = float(value.std(correction=0)) if unit == "deviation" else 1.0
        masks[name] &= value.abs() >= bound * step
        most = max(most, float(value.abs().max()) / step if step else 0.0)
    if not any(mask.any() for mask in masks.values()):
        raise ValueError(f"bound={bound!r}: expected at most {most:.6g}, else no weight is left")
    saliency.zero(new, masks)
    did = {"bound": bound, "unit": unit, "criterion": criterion, "sparsity": sparsity(new)}
    return spec.with_change(new.eval(), "threshold", did)
