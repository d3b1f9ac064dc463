"""ResNet: two convolutions learn what is to be added to their input (He et al. 2016)."""

from torch import nn

from studylib.networks.blocks import ConvUnit, SpecError, check_size

WIDTH = 16  # channels of the first stage in He et al. 2016


class Block(nn.Module):
    """ReLU(F(x) + shortcut(x)), F being two 3 × 3 convolutions (He et al. 2016, figure 2 and equation 2).

    Where the shape changes, the shortcut is a 1 × 1 convolution with batch norm, else x itself. The sum is of numbers
    before their ReLU, so that neither of its convolutions has one.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.first = ConvUnit(in_channels, out_channels, 3, stride=stride)
        self.second = ConvUnit(out_channels, out_channels, 3, relu=False)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = ConvUnit(in_channels, out_channels, 1, stride=stride, relu=False) if changes else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNet(nn.Module):
    """The ResNets for CIFAR of He et al. 2016 (section 4.2): three stages of (depth − 2) / 6 blocks.

    A first convolution has ``width`` channels, the stages have 1, 2 and 4 times as many. The second and third stage
    start with stride 2. A mean over what is left of the image and a linear layer follow. Depth counts them without the
    shortcuts. These are projections where the shape changes (option B); the paper's have no weights there (option A).
    Depth 20 and width 16 give 0.27 M parameters. (batch, in_channels, image_size, image_size) → (batch, classes).
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, depth=20, width=WIDTH):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise SpecError(f"resnet depth={depth!r}: expected 6·n + 2 with n ≥ 1, such as 8, 20 or 56")
        check_size("resnet", image_size, 4, width, halved="twice")
        self.features = nn.Sequential()
        self.features.add_module("stem", ConvUnit(in_channels, width, 3))
        channels, more = width, (depth - 2) // 6 - 1
        for name, out, stride in (("stage1", width, 1), ("stage2", 2 * width, 2), ("stage3", 4 * width, 2)):
            blocks = Block(channels, out, stride), *(Block(out, out, 1) for _ in range(more))
            self.features.add_module(name, nn.Sequential(*blocks))
            channels = out
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))
