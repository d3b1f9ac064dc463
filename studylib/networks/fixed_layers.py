"""Fixed-point layers: integers throughout, whose scales are powers of two (Q-format; Lin et al. 2016).

A format is its fraction f: the integer q stands for q · 2^−f. A layer brings its input to integers of few bits.
Products are summed in 32 bits, bias included, with the fractions of weight and input added. A shift brings the sum to
:data:`OUTPUT_BITS`. Each change of format rounds halves up: (q + 2^(s−1)) >> s for a shift by s. What does not fit gets
the nearest number that does. ReLU, maxima and sums between layers are exact on such numbers, as float32 holds 24 bits.
So are means of 2^k numbers; others, norms and gates are computed in floats.
"""

import torch
import torch.nn.functional as F
from torch import nn

from studylib.networks.blocks import SETTINGS, SpecError
from studylib.networks.int8_layers import Int8Conv2d, Int8Layer, Int8Linear, bits_of_layers, put

OUTPUT_BITS = 16  # of what a layer gives, so that sums of several lose nothing that the next layer's input has
SUM_BITS = 32  # of a sum of products
MOST = 64  # of a fraction, either way


class FixedLayer(Int8Layer):
    """What both kinds share. Buffers: ``weight`` int8 (out, …), ``bias`` float32 (out,), a whole number of 2^−(w + i).

    ``fractions``: w, i and o of the weight, the input and the output. ``activation_bits``: of the input.
    """

    def __init__(self, *how, fractions: list[int], activation_bits: int, **settings):
        super().__init__(*how, activations="float", **settings)
        self.weight_scale = None  # one of two is in the spec
        self.fractions, self.activation_bits = tuple(fractions), activation_bits

    def dequantized_weight(self) -> torch.Tensor:
        """The float32 weight that the integers stand for, the shape of ``weight``."""
        return self.weight * 2.0 ** -self.fractions[0]

    def whole_input(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` as integers of ``activation_bits``, in float64: a shift that rounds, where ``x`` is of a format."""
        half = 2 ** (self.activation_bits - 1)
        return (x.double() * 2.0 ** self.fractions[1] + 0.5).floor().clamp(-half, half - 1)

    def output(self, sums: torch.Tensor) -> torch.Tensor:
        """Whole ``sums`` (n, out, …), float64, with the bias and shifted to the output's format, as float32."""
        w, i, o = self.fractions
        whole, shift, half = sums.to(torch.int64), w + i - o, 2 ** (OUTPUT_BITS - 1)
        if self.bias is not None:
            bias = (self.bias.double() * 2.0 ** (w + i)).round().to(torch.int64)
            whole = whole + bias.view(-1, *[1] * (sums.dim() - 2))
        whole = ((whole + (1 << shift >> 1)) >> shift).clamp(-half, half - 1)
        return (whole.double() * 2.0**-o).float()


class FixedConv2d(FixedLayer, Int8Conv2d):
    """A fixed-point convolution with the batch norm behind it folded in; settings are nn.Conv2d's."""

    settings = ("bits", "activation_bits", "fractions", *SETTINGS)

    def forward(self, x):
        x, padding = self.padded(x)  # float64 holds sums of 32 bits exactly, in whatever order they are added
        how = (None, self.stride, padding, self.dilation, self.groups)
        return self.output(F.conv2d(self.whole_input(x), self.weight.double(), *how))


class FixedLinear(FixedLayer, Int8Linear):
    """A fixed-point linear layer, for inputs (n, in)."""

    settings = ("bits", "activation_bits", "fractions")

    def forward(self, x):
        return self.output(F.linear(self.whole_input(x), self.weight.double()))


def restructure(model: nn.Module, structure: dict) -> None:
    """Puts empty fixed-point layers in the place of those in ``structure["fractions"]``, layer → [w, i, o], in place.

    ``structure`` has one number of ``bits`` of the weights and one of ``activation_bits`` for all.
    """
    bits, wide = bits_of_layers(model, structure["bits"]), structure["activation_bits"]
    if type(wide) is not int or not 2 <= wide <= OUTPUT_BITS:
        raise SpecError(f"activation_bits={wide!r}: expected a whole number from 2 to {OUTPUT_BITS}")
    for name, fractions in structure["fractions"].items():
        if len(fractions) != 3 or not all(type(f) is int and -2 * MOST <= f <= 2 * MOST for f in fractions):
            raise SpecError(f"fractions={fractions!r} of {name}: expected three whole numbers to {2 * MOST}")
        if fractions[0] + fractions[1] < fractions[2]:
            raise SpecError(f"fractions={fractions!r} of {name}: expected the third to be at most the others' sum")
        how = {"bits": bits.get(name, 8), "activation_bits": wide, "fractions": fractions}
        put(model, name, (FixedConv2d, FixedLinear), **how)
