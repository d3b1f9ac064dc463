"""Membership inference: how well a network's loss tells the images it was trained on from others."""

import numpy as np
import torch.nn.functional as F
from torch import nn

from studylib.data import scoring
from studylib.data.datasets import Data, Split

Z = 1.959964  # of a normal distribution, 2.5 % lie above


def losses(model: nn.Module, split: Split, data: Data) -> np.ndarray:
    """Cross-entropy (nats) of each image of ``split`` as it is, float64 (n,)."""
    logits = scoring.predict(model, split, data).double().cpu()
    return F.cross_entropy(logits, split.labels.cpu(), reduction="none").numpy()


def attack(model: nn.Module, data: Data) -> dict[str, float]:
    """:func:`auc` of ``model``'s losses of all training images, not augmented, against those of all test images."""
    return auc(losses(model, data.train, data), losses(model, data.test, data))


def auc(members: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Area under the curve of the attack by small loss (Yeom et al. 2018, section 3.3).

    It is the chance of a member's loss below another image's, ties counting half. A guess has 0.5. The interval
    is normal, 95 %, by the variance of DeLong et al. 1988.

    Args:
        members, others: losses (m,) and (n,).

    Returns:
        auc, auc_low, auc_high (0…1).

    Raises:
        ValueError: fewer than two losses of either, or one that is NaN.
    """
    for name, given in (("members", members), ("others", others)):
        if len(given) < 2 or np.isnan(given).any():
            raise ValueError(f"{name}: expected at least two losses, none NaN; got {len(given)}")
    of_members, of_others = _above(members, others), 1 - _above(others, members)
    area = float(of_members.mean())
    half = Z * (of_members.var(ddof=1) / len(members) + of_others.var(ddof=1) / len(others)) ** 0.5
    return {"auc": area, "auc_low": float(area - half), "auc_high": float(area + half)}


def _above(values: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Of each of ``values`` the share of ``beside`` above it, ties counting half."""
    ordered = np.sort(beside)
    below = sum(np.searchsorted(ordered, values, side) for side in ("left", "right")) / 2
    return 1 - below / len(beside)
