"""Plain chains of layers: the student's ConvNet, a VGG, and a VGG that starts whitened."""

import torch
from torch import nn

from studylib.networks.blocks import ConvUnit, SpecError, chain, check_size

WHITENING_IMAGES, WHITENING_EPS = 5000, 5e-4  # whose patches are whitened; added to each variance


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
        check_size("convnet", image_size, 8)
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
        return chain(["features.0.conv", "features.2.conv", "features.4.conv", "fc1", "fc2", "fc3"])


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
        return chain([*(f"features.{name}.conv" for name in units), "classifier"])


class VGG(Chain):
    """3 × 3 convolutions with batch norm in three stages, without shortcuts (after Simonyan and Zisserman 2015).

    A stem of ``width`` channels, then stages of 2, 4 and 8 times as many, each a convolution, a 2 × 2 maximum and a
    convolution; then a mean over what is left of the image, and a linear layer. Width 24 gives 0.66 M parameters.
    Input (batch, in_channels, image_size, image_size), output (batch, classes) logits.
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, width=24):
        check_size("vgg", image_size, 8, width)
        stages = (2 * width, 4 * width, 8 * width)
        super().__init__(ConvUnit(in_channels, width, 3), stages, nn.AdaptiveAvgPool2d(1), classes)


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
        check_size("whitened", image_size, 7, width)
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
    """Filters (4 c, c, 2, 2) that whiten the patches of ``images`` (n, c, h, w): Jordan 2024, section 3.2.

    The eigenvectors of the patches' second moments, each over the root of its eigenvalue and :data:`WHITENING_EPS`,
    the least first, the largest entry of each positive.
    """
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values.clamp(min=0) + WHITENING_EPS).sqrt()).T
    largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
    return (filters * largest.sign()).float().unflatten(1, (images.shape[1], 2, 2))
