"""MobileNetV2: each channel is filtered by itself, between two 1 × 1 convolutions (Sandler et al. 2018)."""

from torch import nn

from studylib.networks.blocks import ConvUnit, SpecError, check_size

# Of each stage: expansion, channels, blocks, stride of the first (Sandler et al. 2018, table 2, the second's 1 for 2).
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    """F(x), or x + F(x) where the shape stays: expand, filter each channel, project (Sandler et al. 2018, table 1).

    A 1 × 1 convolution makes ``expansion`` times as many channels, unless that is 1. A 3 × 3 depthwise one follows,
    both with ReLU6. The last, 1 × 1, has no activation (section 3.2).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int):
        super().__init__()
        inner, self.adds = expansion * in_channels, stride == 1 and in_channels == out_channels
        self.expand = ConvUnit(in_channels, inner, 1, relu=nn.ReLU6) if expansion > 1 else nn.Identity()
        self.depthwise = ConvUnit(inner, inner, 3, stride=stride, relu=nn.ReLU6, groups=inner)
        self.project = ConvUnit(inner, out_channels, 1, relu=False)

    def forward(self, x):
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """MobileNetV2 for 32 × 32: the first convolution and the second stage have stride 1, as is usual there.

    ``width`` multiplies all channels (Sandler et al. 2018, section 4). What comes is rounded to eights
    (:func:`eights`). The last convolution, of 1,280 channels, only grows. A mean over what is left of the image and a
    linear layer follow, without dropout. Width 0.5 gives 0.70 M parameters, width 1 gives 2.24 M.
    (batch, in_channels, image_size, image_size) → (batch, classes).
    """

    def __init__(self, in_channels=3, image_size=32, classes=10, width=1.0):
        super().__init__()
        if not width > 0:
            raise SpecError(f"mobilenetv2 width={width!r}: expected above 0, such as 0.5")
        check_size("mobilenetv2", image_size, 8)
        channels, last = eights(32 * width), eights(1280 * max(1, width))
        self.features = nn.Sequential()
        self.features.add_module("stem", ConvUnit(in_channels, channels, 3, relu=nn.ReLU6))
        for i, (expansion, out, count, stride) in enumerate(STAGES, start=1):
            out = eights(out * width)
            more = (InvertedResidual(out, out, 1, expansion) for _ in range(count - 1))
            blocks = nn.Sequential(InvertedResidual(channels, out, stride, expansion), *more)
            self.features.add_module(f"stage{i}", blocks)
            channels = out
        self.features.add_module("last", ConvUnit(channels, last, 1, relu=nn.ReLU6))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x):
        return self.classifier(self.pool(self.features(x)).flatten(1))


def eights(channels: float) -> int:
    """The multiple of 8 next to ``channels``, at least 8 and 0.9 ``channels``, as in the authors' code."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near if near >= 0.9 * channels else near + 8
