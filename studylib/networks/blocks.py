"""What networks are built of: convolution → batch norm → ReLU, and the checks that they share."""

import torch.nn.functional as F
from torch import nn

SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode")  # of a convolution, beside its widths


class SpecError(ValueError):
    """A spec that cannot be built; the message names the value and what was expected."""


class TransposedConv2d(nn.Conv2d):
    """A transposed convolution (Dumoulin and Visin 2016, chapter 4), of one group, dilation 1 and zeros around.

    Its weight is (out, in, height, width) as that of nn.Conv2d is. Rows so make channels and columns read them, as in
    every other layer. In nn.ConvTranspose2d the two are the other way round. (batch, in, h, w) →
    (batch, out, h′, w′), h′ = (h − 1) · stride − 2 · padding + kernel.

    Raises:
        SpecError: groups, dilation or padding mode are others, or padding is a word.
    """

    is_transposed = True

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        found = self.groups, self.dilation, self.padding_mode
        if found != (1, (1, 1), "zeros") or isinstance(self.padding, str):
            asked = f"padding={self.padding!r}, groups={self.groups}, dilation={self.dilation}"
            raise SpecError(f"TransposedConv2d {asked}, {self.padding_mode!r}: expected numbers, 1, (1, 1) and 'zeros'")

    def forward(self, x):
        return F.conv_transpose2d(x, self.weight.transpose(0, 1), self.bias, self.stride, self.padding)


CONVOLUTIONS = nn.Conv2d, TransposedConv2d


class ConvUnit(nn.Sequential):
    """Convolution → batch norm → ReLU (not before a sum), the order in which they fuse into one (int8) layer.

    ``relu``: the class of what stands in its place, such as nn.ReLU6; False for none. ``kind``: one of
    :data:`CONVOLUTIONS`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        padding=None,
        stride=1,
        relu=nn.ReLU,
        groups=1,
        kind=nn.Conv2d,
    ):
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = kind(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        if relu:
            self.relu = relu()


def check_size(name: str, image_size: int, least: int, width: int = 1, halved: str = "three times") -> None:
    """Raises SpecError where an image cannot be halved so often, or a network has no channel."""
    if width < 1:
        raise SpecError(f"{name} width={width!r}: expected at least 1")
    if image_size < least:
        raise SpecError(f"{name} image_size={image_size!r}: expected at least {least}, it is halved {halved}")
