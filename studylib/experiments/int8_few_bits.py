"""Chapter 5: what fewer than eight bits per weight cost and save, the same everywhere or layer by layer."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
from pydantic import Field
from torch import nn

from studylib.coding import codec
from studylib.data import scoring
from studylib.data.datasets import Data
from studylib.disk import files
from studylib.experiments.int8 import DENSE, Networks
from studylib.networks import bits as bits_of
from studylib.networks.layers import duplicate, masks_of
from studylib.settings import record
from studylib.techniques import int8, qat
from studylib.training import loop
from studylib.training.checkpoint import weights_digest
from studylib.training.recipe import Recipe
from studylib.tree import names
from studylib.tree.rows import Task, every

NONE, AFTER, ON, IN = ROUNDINGS = ("none", "after training", "trained on", "in training")
HYBRID = f"{DENSE}, hybrid"
SEEN = 512  # training images, at most, on which the sensitivity of a layer is measured


Bits = dict[int, int | dict[str, int]]  # as rows name them → as quantize.apply takes them


@record
class FewBits:
    """The numbers of bits per weight, below eight, that are compared."""

    bits: Annotated[
        list[Annotated[int, Field(ge=2, le=7)]], Field(min_length=1, description="bits of a weight, ascending")
    ] = dataclasses.field(default_factory=lambda: [2, 4])

    def check(self) -> None:
        if self.bits != sorted(set(self.bits)):
            raise ValueError(f"bits={self.bits!r}: expected ascending numbers, each once")


@record
class Tuning(Recipe):
    """The recipe of a training with rounded weights, and of the one without that it is compared with.

    The rate falls to zero, so that integers settle. A tenth of the network's own rate is a good start.
    """

    epochs: Annotated[int, Field(ge=1, le=1_000_000, description="passes over the training images")] = 10
    lr: Annotated[float, Field(gt=0, le=1000, description="learning rate at its highest")] = 1e-4
    min_lr: Annotated[float, Field(ge=0, description="learning rate at the end")] = 0.0

    def check(self) -> None:
        super().check()
        if self.compile:
            raise ValueError("compile=True: expected False; training with rounded weights runs uncompiled")
        if self.label_smoothing:
            raise ValueError(f"label_smoothing={self.label_smoothing!r}: expected 0; weights are rounded without")


def sensitivity(model: nn.Module, data: Data, bits: list[int], seed: int) -> list[dict]:
    """Rows of :func:`studylib.networks.bits.sensitivity`, of at most :data:`SEEN` training images; eight bits too."""
    return bits_of.sensitivity(model, data, bits=(*bits, 8), seed=seed, images=min(SEEN, len(data.train)))


def chosen(sensitivities: list[dict], bits: list[int]) -> dict[int, dict[str, int]]:
    """Bits → layer → bits: what each of ``bits`` but the least buys, by :func:`studylib.networks.bits.choose_bits`."""
    weights = sum(row["weights"] for row in sensitivities if row["bits"] == 8)
    return {each: bits_of.choose_bits(sensitivities, weights * each / 8) for each in bits[1:]}


def in_floats(folders: dict[str, str]) -> list[dict]:
    """The rows, as :func:`below_eight` has them, of the networks as their ``folders`` say: none rounds."""
    rows = []
    for network, folder in folders.items():
        known = files.read_json(files.resolve(folder) / names.METRICS)  # it has read the test set already
        row = {"network": network, "rounding": NONE, "bits": 32, "bytes": known["bytes_file"]}
        rows.append(row | {"accuracy": known["test_accuracy"], "nll": known["test_nll"]})
    return rows


def below_eight(
    networks: Networks,
    data: Data,
    bits: list[int],
    sensitivities: list[dict],
    *,
    tuning: Recipe,
    calibration_images: int,
    seed: int,
    folder: Path,
) -> list[dict]:
    """The rows of :func:`roundings`, each training kept in ``folder``; bits layer by layer are of "dense"."""
    layers = chosen(sensitivities, bits)
    how = {"tuning": tuning, "calibration_images": calibration_images, "seed": seed}
    digests = {name: weights_digest(model) for name, model in networks.items()}
    key = [bits, layers, how | {"tuning": dataclasses.asdict(tuning)}, data.identity, digests]
    return list(every(roundings(networks, data, bits, layers, **how, scratch=folder), folder, key))


def in_order(rows: list[dict]) -> list[dict]:
    """``rows`` of :func:`below_eight`: networks as they come, more than seven bits first, then few to many."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    place = {way: k for k, way in enumerate(ROUNDINGS)}

    def key(row: dict) -> tuple:
        wide = -row["bits"] if row["bits"] > 7 else 0
        return networks.index(row["network"]), wide, row["bits"], place[row["rounding"]]

    return sorted(rows, key=key)


def roundings(
    networks: Networks,
    data: Data,
    bits: list[int],
    layers: dict[int, dict[str, int]],
    *,
    tuning: Recipe,
    calibration_images: int,
    seed: int,
    scratch: Path,
) -> Iterator[Task]:
    """Tasks of one training or none: each network in each of ``bits``, the dense one also with bits by layer.

    "after training" rounds the network as it is. "trained on" first trains it by ``tuning`` without rounding. "in
    training" trains by ``tuning`` with rounding (:mod:`studylib.techniques.qat`).

    Args:
        layers: bits → layer → bits, as :func:`chosen` gives them.

    Rows: bits (a weight, on average), bytes of the coded file, accuracy (0…1) and nll (nats) of test images.
    """
    how = {"calibration_images": calibration_images, "seed": seed}
    alike = {each: each for each in bits}
    for network, model in networks.items():
        yield {"network": network, "rounding": AFTER}, partial(_after, model, data, {8: 8, **alike}, how)
        trained = partial(_on, model, data, alike, how, tuning, scratch / f"{network}.safetensors")
        yield {"network": network, "rounding": ON}, trained
        for each in bits:
            rounded = partial(_in, model, data, {each: each}, how, tuning, scratch / f"{network}-{each}")
            yield {"network": network, "rounding": IN, "bits": each}, rounded
    if layers:
        yield {"network": HYBRID, "rounding": AFTER}, partial(_after, networks[DENSE], data, layers, how)
    for each in layers:
        rounded = partial(_in, networks[DENSE], data, {each: layers[each]}, how, tuning, scratch / f"hybrid-{each}")
        yield {"network": HYBRID, "rounding": IN, "bits": each}, rounded


def _after(model: nn.Module, data: Data, bits: Bits, how: dict) -> list[dict]:
    return [_row(int8.apply(model, data, bits=each, **how), data, name) for name, each in bits.items()]


def _on(model: nn.Module, data: Data, bits: Bits, how: dict, tuning: Recipe, checkpoint: Path) -> list[dict]:
    longer = duplicate(model)
    loop.fit(longer, data, tuning, seed=how["seed"], masks=masks_of(model), checkpoint=checkpoint)
    return _after(longer, data, bits, how)


def _in(model: nn.Module, data: Data, bits: Bits, how: dict, tuning: Recipe, scratch: Path) -> list[dict]:
    return [
        _row(qat.apply(model, data, bits=each, recipe=tuning, scratch=scratch, **how), data, name)
        for name, each in bits.items()
    ]


def _row(model: nn.Module, data: Data, bits: int) -> dict:
    scored = scoring.scores(scoring.predict(model, data.test, data), data.test.labels)
    return {"bits": bits, "bytes": len(codec.encode(model)), "accuracy": scored["accuracy"], "nll": scored["nll"]}


def said_of_few(rows: pd.DataFrame) -> str:
    """Of the rows of :func:`below_eight`, for each network: the fewest bits, and the smallest file within a point."""
    floats, few = rows[rows["rounding"] == NONE].set_index("network")["accuracy"], rows[rows["rounding"] != NONE]
    parts = []
    for network, whole in floats.items():
        own = few[few["network"] == network]
        small = own[own["accuracy"] >= whole - 0.01].nsmallest(1, "bytes")
        found = [f"{row.bits} bits, {row.rounding}, {row.bytes:,} bytes" for row in small.itertuples()] or ["none"]
        lowest = own[own["bits"] == own["bits"].min()]
        ways = ", ".join(f"{row.rounding} {row.accuracy:.1%}" for row in lowest.itertuples())
        parts.append(
            f"{network}: in {own['bits'].min()} bits {ways}, in floats {whole:.1%}; smallest file within a point of "
            f"that: {found[0]}"
        )
    return "; ".join(parts)


def said_of_hybrid(rows: pd.DataFrame) -> str:
    """Of the same rows: accuracy with bits by layer less that with the same number everywhere, in points."""
    wide = rows.pivot_table(index=["bits", "rounding"], columns="network", values="accuracy")
    if HYBRID not in wide:
        return "none was chosen, as that takes two numbers of bits"
    more = 100 * (wide[HYBRID] - wide[DENSE]).dropna()
    return "; ".join(f"{bits} bits, {how}, {value:+.1f} points" for (bits, how), value in more.items())
