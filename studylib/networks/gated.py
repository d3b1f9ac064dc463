"""A small network of the separable, normalized and gated kind, with 18 to 98 thousand weights."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from studylib.networks.blocks import SpecError, check_size


class ChannelNorm(nn.LayerNorm):
    """Layer normalization (Ba et al. 2016) over the channels of each pixel; (batch, channels, height, width)."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def tanh_exp(x: torch.Tensor) -> torch.Tensor:
    """x · tanh(eˣ) (Liu and Di 2020); above 20 the second factor is 1 in float32, and its slope 0."""
    return x * torch.tanh(torch.exp(x.clamp(max=20)))


class Block(nn.Module):
    """Depthwise convolutions mix pixels, a gated pair of 1 × 1 convolutions mixes channels; the input is added.

    A quarter of the channels stays, one is convolved 3 × 3, one 7 × 7. One is averaged 3 × 3 and convolved 7 × 7 at
    every third pixel. The gate is tanh_exp(gate(x)) · value(x) (a gated linear unit, Shazeer 2020). The input is added
    with a learned scale a channel.
    """

    def __init__(self, width: int):
        super().__init__()
        part = width // 4
        self.near = nn.Conv2d(part, part, 3, padding=1, groups=part)
        self.wide = nn.Conv2d(part, part, 7, padding=3, groups=part)
        self.far = nn.Conv2d(part, part, 7, padding=9, dilation=3, groups=part)
        self.norm = ChannelNorm(width)
        self.gate = nn.Conv2d(width, width, 1)
        self.value = nn.Conv2d(width, width, 1)
        self.project = nn.Conv2d(width, width, 1)
        self.scale = nn.Parameter(torch.ones(width, 1, 1))

    def forward(self, x):
        kept, near, wide, far = x.chunk(4, dim=1)
        far = self.far(F.avg_pool2d(far, 3, stride=1, padding=1))
        mixed = self.norm(torch.cat([kept, self.near(near), self.wide(wide), far], dim=1))
        return self.project(tanh_exp(self.gate(mixed)) * self.value(mixed)) + self.scale * x


class Gated(nn.Module):
    """Two stages of three blocks each, of ``width`` and about 5/3 · ``width`` channels, a multiple of 4.

    Our code, after a public design with a width of 48 and 97,530 parameters. Its author states 94.4 % on CIFAR-10
    (https://github.com/xvel/cifar10-tiniest). A convolution in groups halves the image between the stages. A mean over
    pixels and a linear layer follow. (batch, in_channels, image_size, image_size) → (batch, classes).
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, width=48):
        super().__init__()
        if width < 4 or width % 4:
            raise SpecError(f"gated width={width!r}: expected a multiple of 4")
        check_size("gated", image_size, 2, halved="once")
        wider = 4 * round(width * 5 / 12)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), ChannelNorm(width))
        self.stage1 = nn.Sequential(*(Block(width) for _ in range(3)))
        self.halve = nn.Sequential(nn.Conv2d(width, wider, 4, 2, 1, groups=math.gcd(width, wider)), ChannelNorm(wider))
        self.stage2 = nn.Sequential(*(Block(wider) for _ in range(3)))
        self.classifier = nn.Linear(wider, classes)

    def forward(self, x):
        return self.classifier(self.stage2(self.halve(self.stage1(self.stem(x)))).mean((2, 3)))
