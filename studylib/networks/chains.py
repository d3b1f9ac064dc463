"""Plain chains of layers: the student's ConvNet, a VGG, and a VGG that starts whitened."""

import torch
from torch import nn

from studylib.networks.blocks import ConvUnit, SpecError, check_size

WHITENING_IMAGES, WHITENING_EPS = 5000, 5e-4  # whose patches are whitened; added to each variance


class ConvNet(nn.Module):
    """The student: three convolutions with batch norm, then three linear layers, ReLU between all.

    A 2 × 2 maximum follows each convolution. ``widths``: channels of the convolutions; ``hidden``: features of the
    first two linear layers (the paper states neither). (batch, in_channels, image_size, image_size) → (batch, classes).
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, widths=(32, 64, 128), hidden=(128, 64)):
        super().__init__()
        if len(widths) != 3 or len(hidden) != 2:
            raise SpecError(f"convnet widths={widths!r} hidden={hidden!r}: expected 3 and 2 numbers")
        check_size("convnet", image_size, 8)
        channels = [in_channels, *widths]
        self.features = nn.Sequential()
        for i in range(3):
            self.features.extend([ConvUnit(channels[i], channels[i + 1], 3), nn.MaxPool2d(2)])
        self.fc1 = nn.Linear(widths[2] * (image_size // 8) ** 2, hidden[0])
        self.fc2 = nn.Linear(hidden[0], hidden[1])
        self.fc3 = nn.Linear(hidden[1], classes)

    def forward(self, x):
        x = self.features(x).flatten(1)
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


class Chain(nn.Module):
    """A first convolution (``stem``), three stages, what pools, and a linear layer.

    A stage is a 3 × 3 convolution, a 2 × 2 maximum and another convolution as wide, with batch norm.
    ``pool`` brings (batch, channels, height, width) to (batch, channels, 1, 1).
    """

    def __init__(self, stem: ConvUnit, stages: tuple[int, int, int], pool: nn.Module, classes: int):
        super().__init__()
        self.features = nn.Sequential(stem)
        for channels in stages:
            first = ConvUnit(self.features[-1].conv.out_channels, channels, 3)
            self.features.extend([first, nn.MaxPool2d(2), ConvUnit(channels, channels, 3)])
        self.pool = pool
        self.classifier = nn.Linear(stages[-1], classes)

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))


class VGG(Chain):
    """3 × 3 convolutions with batch norm in three stages, without shortcuts (after Simonyan and Zisserman 2015).

    A stem of ``width`` channels comes before stages of 2, 4 and 8 times as many. A mean over what is left of the image
    and a linear layer follow. Width 24 gives 0.66 M parameters. Shapes are those of :class:`ConvNet`.
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, width=24):
        check_size("vgg", image_size, 8, width)
        stages = (2 * width, 4 * width, 8 * width)
        super().__init__(ConvUnit(in_channels, width, 3), stages, nn.AdaptiveAvgPool2d(1), classes)


class Whitened(Chain):
    """A VGG that learns in few epochs: its first layer starts as the whitening of the images' patches (Jordan 2024).

    The stem is a 2 × 2 convolution without padding. Its channels are the principal components of 2 × 2 patches, divided
    by their deviations, and their negatives (section 3.2). There they do not train on. Stages have ``width``, 4 and 4
    times as many channels. They start as the identity as far as they go (section 3.3). Then come the maximum over what
    is left of the image and a linear layer. Width 64 gives 2.0 M parameters. For int8, batch norm comes
    before the maximum, and ReLU is in GELU's place. Images below 9 pixels are padded by one.
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

    They are the eigenvectors of the patches' second moments, each over the root of its eigenvalue and
    :data:`WHITENING_EPS`. The least comes first, and the largest entry of each is positive.
    """
    patches = images.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (values.clamp(min=0) + WHITENING_EPS).sqrt()).T
    largest = filters.gather(1, filters.abs().argmax(1, keepdim=True))
    return (filters * largest.sign()).float().unflatten(1, (images.shape[1], 2, 2))
