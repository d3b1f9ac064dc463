"""DenseNet: every layer reads all before it (Huang et al. 2017)."""

import torch
from torch import nn

from studylib.networks.blocks import ConvUnit, SpecError, check_size


class DenseBlock(nn.Module):
    """Each layer reads everything before it and adds ``growth`` channels (Huang et al. 2017, eq. 2)."""

    def __init__(self, in_channels: int, layers: int, growth: int):
        super().__init__()
        self.layers = nn.ModuleList(ConvUnit(in_channels + i * growth, growth, 3) for i in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class DenseNet(nn.Module):
    """DenseNet without bottlenecks: three dense blocks of (depth − 4) / 3 layers (Huang et al. 2017).

    Convolution → batch norm → ReLU instead of the original order, so that they fuse for int8 (the paper, section 3.6).
    Depth 40 and growth 12 give 1.0 M parameters. (batch, in_channels, image_size, image_size) → (batch, classes).
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, depth=40, growth=12, stem=16):
        super().__init__()
        if depth < 7 or (depth - 4) % 3:
            raise SpecError(f"densenet depth={depth!r}: expected 3·n + 4 with n ≥ 1, such as 22 or 40")
        if growth < 1:
            raise SpecError(f"densenet growth={growth!r}: expected at least 1")
        check_size("densenet", image_size, 4, halved="twice")
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
