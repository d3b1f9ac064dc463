"""VGG-16 with batch norm (Simonyan and Zisserman 2015)."""

from torch import nn

from studylib.networks.blocks import ConvUnit, check_size

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # channels, in widths, and convolutions (ibid., table 1, D)


class VGG16(nn.Module):
    """Five stages of 3 × 3 convolutions with batch norm, thirteen in all, and one linear layer.

    Stages have ``width``, 2, 4, 8 and 8 times as many channels. A 2 × 2 maximum follows each; of an odd side it also
    takes what is over. For small images one linear layer is in the place of three (Liu et al. 2017). Of images above
    32 × 32 it reads the mean over what is left. Width 64, the paper's, gives 14.7 M parameters.
    (batch, in_channels, image_size, image_size) → (batch, classes).
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, width=64):
        super().__init__()
        check_size("vgg16", image_size, 1, width, halved="five times, rounded up")
        channels, self.features = in_channels, nn.Sequential()
        for times, count in STAGES:
            for _ in range(count):
                self.features.append(ConvUnit(channels, times * width, 3))
                channels = times * width
            self.features.append(nn.MaxPool2d(2, ceil_mode=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))
