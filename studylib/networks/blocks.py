"""What networks are built of: convolution → batch norm → ReLU, and the checks that they share."""

from torch import nn

SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode")  # of a convolution, beside its widths


class SpecError(ValueError):
    """A spec that cannot be built; the message names the value and what was expected."""


class ConvUnit(nn.Sequential):
    """Convolution → batch norm → ReLU (not before a sum), the order in which they fuse into one (int8) layer.

    ``relu``: the class of what stands in its place, such as nn.ReLU6; False for none.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, padding=None, stride=1, relu=nn.ReLU, groups=1
    ):
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        if relu:
            self.relu = relu()


def check_size(name: str, image_size: int, least: int, width: int = 1, halved: str = "three times") -> None:
    """Raises SpecError where an image cannot be halved so often, or a network has no channel."""
    if width < 1:
        raise SpecError(f"{name} width={width!r}: expected at least 1")
    if image_size < least:
        raise SpecError(f"{name} image_size={image_size!r}: expected at least {least}, it is halved {halved}")
