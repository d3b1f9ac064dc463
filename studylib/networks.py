"""The networks of the study: what :mod:`studylib.models` builds from a spec, by name."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import nn

from studylib.settings import record

if TYPE_CHECKING:
    from studylib.data import Data

ARCHITECTURES: dict[str, type[nn.Module]] = {}
BREADTH = {"densenet": "growth", "vgg": "width", "whitened": "width"}  # the argument that says how wide
WHITENING_IMAGES, WHITENING_EPS = 5000, 5e-4  # whose patches are whitened; added to each variance


class SpecError(ValueError):
    """A spec that cannot be built; the message names the value and what was expected."""


def architecture(name: str):
    """Class decorator: lets :mod:`studylib.models` make the class under ``name``."""

    def register(cls):
        ARCHITECTURES[name] = cls
        return cls

    return register


class ConvUnit(nn.Sequential):
    """Convolution → batch norm → ReLU, the order in which the three fuse into one (int8) layer."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int | None = None):
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()


class DenseBlock(nn.Module):
    """Each layer reads everything before it and adds ``growth`` channels (Huang et al. 2017, eq. 2)."""

    def __init__(self, in_channels: int, layers: int, growth: int):
        super().__init__()
        self.layers = nn.ModuleList(ConvUnit(in_channels + i * growth, growth, 3) for i in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


@architecture("densenet")
class DenseNet(nn.Module):
    """DenseNet without bottlenecks: three dense blocks of (depth − 4) / 3 layers (Huang et al. 2017).

    The layers run convolution → batch norm → ReLU instead of the original pre-activation order, so that
    they fuse for int8, as in the paper (section 3.6).  Depth 40 and growth 12 give 1.0 M parameters.
    Input (batch, in_channels, image_size, image_size), output (batch, classes) logits.
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, depth=40, growth=12, stem=16):
        super().__init__()
        if depth < 7 or (depth - 4) % 3:
            raise SpecError(f"densenet depth={depth!r}: expected 3·n + 4 with n ≥ 1, such as 22 or 40")
        if growth < 1:
            raise SpecError(f"densenet growth={growth!r}: expected at least 1")
        if image_size < 4:
            raise SpecError(f"densenet image_size={image_size!r}: expected at least 4, it is halved twice")
        layers, channels = (depth - 4) // 3, stem
        self.features = nn.Sequential()
        self.features.add_module("stem", ConvUnit(in_channels, stem, 3))
        for i in (1, 2, 3):
            self.features.add_module(f"block{i}", DenseBlock(channels, layers, growth))
            channels += layers * growth
            if i < 3:
                self.features.add_module(f"transition{i}", ConvUnit(channels, channels, 1))
                self.features.add_module(f"pool{i}", nn.AvgPool2d(2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))

    def wiring(self) -> list[tuple[str, list[str]]]:
        """Each layer, and the layers whose channels it reads, in the order of its columns; [] reads the image."""
        found, read = [("features.stem.conv", [])], ["features.stem.conv"]
        for name, part in self.features.named_children():
            if isinstance(part, DenseBlock):
                for i in range(len(part.layers)):
                    layer = f"features.{name}.layers.{i}.conv"
                    found.append((layer, list(read)))
                    read.append(layer)
            elif name.startswith("transition"):
                found.append((f"features.{name}.conv", read))
                read = [f"features.{name}.conv"]
        return [*found, ("classifier", read)]


@architecture("convnet")
class ConvNet(nn.Module):
    """The student: three convolutions with batch norm, then three linear layers, ReLU between all.

    Each convolution is followed by a 2 × 2 maximum.  ``widths`` are the channels of the convolutions,
    ``hidden`` the features of the first two linear layers (the paper states neither; they are ours).
    Input (batch, in_channels, image_size, image_size), output (batch, classes) logits.
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, widths=(32, 64, 128), hidden=(128, 64)):
        super().__init__()
        if len(widths) != 3 or len(hidden) != 2:
            raise SpecError(f"convnet widths={widths!r} hidden={hidden!r}: expected 3 and 2 numbers")
        _check_size("convnet", image_size, 8)
        channels = [in_channels, *widths]
        self.features = nn.Sequential()
        for i in range(3):
            self.features.append(ConvUnit(channels[i], channels[i + 1], 3))
            self.features.append(nn.MaxPool2d(2))
        self.fc1 = nn.Linear(widths[2] * (image_size // 8) ** 2, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], classes)

    def forward(self, x):
        x = self.features(x).flatten(1)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))

    def wiring(self) -> list[tuple[str, list[str]]]:
        """Each layer, and the layers whose channels it reads, in the order of its columns; [] reads the image."""
        return _chain(["features.0.conv", "features.2.conv", "features.4.conv", "fc1", "fc2", "fc3"])


@record
class ConvNetSize:
    """How large a :class:`ConvNet` is; the paper states neither, the defaults are ours."""

    widths: Annotated[
        list[Annotated[int, Field(ge=1, le=4096)]],
        Field(min_length=3, max_length=3, description="channels of the convolutions"),
    ] = dataclasses.field(default_factory=lambda: [32, 64, 128])
    hidden: Annotated[
        list[Annotated[int, Field(ge=1, le=4096)]],
        Field(min_length=2, max_length=2, description="features of the first two linear layers"),
    ] = dataclasses.field(default_factory=lambda: [128, 64])

    def against(self, data: "Data") -> None:
        """Raises ValueError where the network, for ``data``, does not fit the limits of a coded file."""
        from studylib import limits  # which reads networks

        asked = f"widths={self.widths!r}, hidden={self.hidden!r}"
        limits.check_network("convnet", dataclasses.asdict(self), data, asked)


class Chain(nn.Module):
    """A first convolution, stages of a convolution, a 2 × 2 maximum and a convolution, what pools, and a linear layer.

    Args:
        stem: the first.
        stages: channels of each, 3 × 3 convolutions with batch norm.
        pool: brings (batch, channels, height, width) to (batch, channels, 1, 1).
    """

    def __init__(self, stem: ConvUnit, stages: tuple[int, int, int], pool: nn.Module, classes: int):
        super().__init__()
        self.features = nn.Sequential(stem)
        for channels in stages:
            self.features.append(ConvUnit(self.features[-1].conv.out_channels, channels, 3))
            self.features.append(nn.MaxPool2d(2))
            self.features.append(ConvUnit(channels, channels, 3))
        self.pool = pool
        self.classifier = nn.Linear(stages[-1], classes)

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))

    def wiring(self) -> list[tuple[str, list[str]]]:
        """Each layer, and the layers whose channels it reads, in the order of its columns; [] reads the image."""
        units = (name for name, part in self.features.named_children() if isinstance(part, ConvUnit))
        return _chain([*(f"features.{name}.conv" for name in units), "classifier"])


@architecture("vgg")
class VGG(Chain):
    """3 × 3 convolutions with batch norm in three stages, without shortcuts (after Simonyan and Zisserman 2015).

    A stem of ``width`` channels, then stages of 2, 4 and 8 times as many, each a convolution, a 2 × 2 maximum and a
    convolution; then a mean over what is left of the image, and a linear layer. Width 24 gives 0.66 M parameters.
    Input (batch, in_channels, image_size, image_size), output (batch, classes) logits.
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, width=24):
        _check_size("vgg", image_size, 8, width)
        stages = (2 * width, 4 * width, 8 * width)
        super().__init__(ConvUnit(in_channels, width, 3), stages, nn.AdaptiveAvgPool2d(1), classes)


@architecture("whitened")
class Whitened(Chain):
    """A VGG that learns in few epochs: its first layer starts as the whitening of the images' patches (Jordan 2024).

    A 2 × 2 convolution without padding, whose channels are the principal components of 2 × 2 patches, each divided by
    its deviation, and their negatives (section 3.2; it trains on, there it does not); then three stages of ``width``,
    4 and 4 times as many channels, each a 3 × 3 convolution, a 2 × 2 maximum and another convolution, which start as
    the identity as far as they go (section 3.3); then the maximum over what is left of the image, and a linear layer.
    Width 64 gives 2.0 M parameters.  Batch norm comes before the maximum, and ReLU is in GELU's place, for int8.
    An image smaller than 9 pixels is padded by one.
    Input (batch, in_channels, image_size, image_size), output (batch, classes) logits.
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, width=64):
        _check_size("whitened", image_size, 7, width)
        stem = ConvUnit(in_channels, 8 * in_channels, 2, padding=int(image_size < 9))
        super().__init__(stem, (width, 4 * width, 4 * width), nn.AdaptiveMaxPool2d(1), classes)

    def start(self, data=None) -> None:
        """The weights of a new model where they are not drawn; without ``data``, the first layer's are."""
        for unit in [part for part in self.features if isinstance(part, ConvUnit)][1:]:
            nn.init.dirac_(unit.conv.weight.data[: unit.conv.in_channels])
        if data is not None:
            whitening = whitening_filters(data.normalize(data.train.images[:WHITENING_IMAGES]))
            self.features[0].conv.weight.data.copy_(torch.cat([whitening, -whitening]))


def whitening_filters(images: torch.Tensor) -> torch.Tensor:
    """Filters (4 c, c, 2, 2) whose answers to patches of ``images`` (n, c, h, w) have second moments near the identity.

    The eigenvectors of the patches' second moments, each over the root of its eigenvalue and :data:`WHITENING_EPS`,
    the least first, the largest entry of each positive (Jordan 2024, section 3.2).
    """
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values.clamp(min=0) + WHITENING_EPS).sqrt()).T
    largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
    return (filters * largest.sign()).float().unflatten(1, (images.shape[1], 2, 2))


def _check_size(name: str, image_size: int, least: int, width: int = 1) -> None:
    if width < 1:
        raise SpecError(f"{name} width={width!r}: expected at least 1")
    if image_size < least:
        raise SpecError(f"{name} image_size={image_size!r}: expected at least {least}, it is halved three times")


def _chain(layers: list[str]) -> list[tuple[str, list[str]]]:
    return [(layer, layers[i - 1 : i] if i else []) for i, layer in enumerate(layers)]


def described(text: str, like: dict, model_args: dict) -> tuple[str, dict]:
    """Name and arguments, for :func:`studylib.models.create`, of a network in words: its kind and how wide it is.

    Args:
        text: "densenet 6" adds 6 channels a layer, "vgg 12" has a stem of 12, "whitened 64" first stages of 64; they
            are otherwise as ``like``, if it is of their kind. "convnet 16" has 16, 32 and 64 channels, 32 and 16
            features.
        like: a spec, or its name and args.
        model_args: what a network needs to fit the data.

    Raises:
        ValueError: another kind, or no whole number of at least 1 after it.
    """
    kind, _, number = text.partition(" ")
    kinds = ["convnet", *BREADTH]
    if kind not in kinds or not number.isdecimal() or int(number) < 1:
        raise ValueError(f"network {text!r}: expected one of {', '.join(kinds)}, and a number of at least 1")
    w = int(number)
    if kind == "convnet":
        return kind, {**model_args, "widths": [w, 2 * w, 4 * w], "hidden": [2 * w, w]}
    same = like["args"] if like["name"] == kind else {}
    return kind, {**same, **model_args, BREADTH[kind]: w}
