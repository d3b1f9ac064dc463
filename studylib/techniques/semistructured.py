"""Semi-structured pruning: of every M weights along the input channels at most N stay, such as 2 of 4."""

import logging
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from studylib.data.datasets import Data
from studylib.networks import saliency, spec
from studylib.networks.layers import duplicate, masks_of
from studylib.networks.layers import sparsity as sparsity_of
from studylib.settings import record

log = logging.getLogger(__name__)


@record
class SemiStructured(saliency.Ranking):
    """How much :func:`apply` leaves; the defaults are those that sparse tensor cores compute (Mishra et al. 2021)."""

    n: Annotated[int, Field(ge=1, le=63, description="N, how many weights of a group stay at most")] = 2
    m: Annotated[int, Field(ge=2, le=64, description="M, how many a group has")] = 4

    def check(self) -> None:
        if self.n >= self.m:
            raise ValueError(f"n={self.n!r}: expected below m={self.m!r}")


def largest(worth: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Where the ``n`` largest are in each group of ``m`` along dimension 1 of ``worth``; bool of its shape.

    Groups begin at 0; a last one may have fewer. Of equal ones the earlier stays.
    """
    groups = F.pad(worth.movedim(1, -1), (0, -worth.shape[1] % m), value=-torch.inf).unflatten(-1, (-1, m))
    order = groups.argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    return kept.flatten(-2)[..., : worth.shape[1]].movedim(-1, 1)


def apply(
    model: nn.Module,
    data: Data | None = None,
    *,
    n: int = 2,
    m: int = 4,
    criterion: str = "magnitude",
    calibration_images: int = 512,
    seed: int = 0,
) -> nn.Module:
    """Keeps, of every ``m`` weights that follow each other along the input channels, the ``n`` that are worth most.

    Of a convolution they are of one filter and one place in its kernels (Mishra et al. 2021). A layer that
    reads ``n`` channels or fewer keeps all: its groups are no larger.

    Args:
        data: for criteria that see training images.
        criterion, calibration_images, seed: as for :func:`studylib.networks.saliency.saliencies`.

    Raises:
        ValueError: a setting is out of range, or as :func:`studylib.networks.saliency.saliencies`.
    """
    by = {"criterion": criterion, "calibration_images": calibration_images}
    SemiStructured(**by, n=n, m=m)  # refuses what is out of range
    new, masks, values = duplicate(model), masks_of(model), saliency.saliencies(model, data, **by, seed=seed)
    for name, value in values.items():
        masks[name] &= largest(torch.where(masks[name], value.abs(), -1), n, m)
        if value.shape[1] <= n:
            log.info("%s is left alone: it reads no more than %d", name.removesuffix(".weight"), n)
    saliency.zero(new, masks)
    did = {"n": n, "m": m, "criterion": criterion, "sparsity": sparsity_of(new)}
    return spec.with_change(new.eval(), "semistructured", did)
