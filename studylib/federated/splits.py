"""Who has which training images: a teacher its own part, clients the rest, drawn by seed.

Dirichlet parts are those of Yurochkin et al. 2019 (section 5.1). Of each class every client gets a share. These
shares are drawn from a symmetric Dirichlet distribution.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from studylib.data.sources import stratified
from studylib.settings import record

LEAST = 2  # images that a client needs to train: batch norm cannot learn from one


@record
class Splits:
    """How the training images are parted."""

    clients: Annotated[int, Field(ge=1, le=1000, description="clients")] = 5
    kind: Annotated[
        Literal["dirichlet", "classes"], Field(description="drawn by alpha, or a few whole classes each")
    ] = "dirichlet"
    alpha: Annotated[float, Field(gt=0, le=1e6, description="of Dirichlet shares; small: clients differ much")] = 0.1
    classes_each: Annotated[int, Field(ge=1, le=10_000, description="classes of a client, of kind classes")] = 2
    teacher: Annotated[float, Field(gt=0, lt=1, description="share of the images that the teacher alone has")] = 0.5


def parts(labels: torch.Tensor, splits: Splits, classes: int, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Indices of the teacher's images and, for each client, of its own; none is in two of them.

    A client with fewer than :data:`LEAST` images never trains and weighs nothing. All other images are in one part.

    Args:
        labels: (n,) of 0 … ``classes`` − 1.

    Raises:
        ValueError: too few images for the teacher's share. No client has enough images. Of kind classes: more classes
            a client than there are, or some class that nobody has.
    """
    size = round(splits.teacher * len(labels))
    if min(size, len(labels) - size) < classes:
        raise ValueError(f"teacher={splits.teacher!r}: expected {classes} of {len(labels)} images on each side")
    rest, taken = stratified(labels, size, seed)
    draw = np.random.default_rng([seed, splits.clients])
    rest = draw.permutation(rest)
    owners = _dirichlet if splits.kind == "dirichlet" else _whole_classes
    owner = owners(labels.numpy()[rest], splits, classes, draw)
    found = [np.sort(rest[owner == k]) for k in range(splits.clients)]
    if max(map(len, found)) < LEAST:
        raise ValueError(f"clients={splits.clients}: expected a client with at least {LEAST} of {len(rest)} images")
    return np.sort(taken), found


def _dirichlet(labels: np.ndarray, splits: Splits, classes: int, draw: np.random.Generator) -> np.ndarray:
    """The owner of each image (n,), 0 … clients − 1."""
    owner = np.zeros(len(labels), np.int64)
    for label in range(classes):
        here = np.flatnonzero(labels == label)
        ends = np.rint(np.cumsum(draw.dirichlet(np.full(splits.clients, splits.alpha))) * len(here))
        owner[here] = np.searchsorted(ends[:-1], np.arange(len(here)), side="right")
    return owner


def _whole_classes(labels: np.ndarray, splits: Splits, classes: int, draw: np.random.Generator) -> np.ndarray:
    """As :func:`_dirichlet`; client k has the classes k·m … k·m + m − 1 of a drawn order, round its end."""
    each, order = splits.classes_each, draw.permutation(classes)
    if each > classes:
        raise ValueError(f"classes_each={each}: expected at most {classes}, the classes there are")
    if each * splits.clients < classes:
        least = -(-classes // splits.clients)
        raise ValueError(f"classes_each={each}: expected at least {least}, or some of {classes} classes is nobody's")
    has = [{int(order[(k * each + i) % classes]) for i in range(each)} for k in range(splits.clients)]
    owner = np.zeros(len(labels), np.int64)
    for label in range(classes):
        here, holders = np.flatnonzero(labels == label), [k for k, own in enumerate(has) if label in own]
        owner[here] = np.array(holders)[np.arange(len(here)) * len(holders) // max(1, len(here))]
    return owner


def counts(labels: torch.Tensor, clients: list[np.ndarray], classes: int) -> np.ndarray:
    """(clients, classes): how many images of each class a client has."""
    return np.stack([np.bincount(labels.numpy()[part], minlength=classes) for part in clients])
