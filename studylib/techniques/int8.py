"""Static quantization through torchao's PT2E: weights in 2 to 8 bits, held in int8 layers of our own.

PT2E exports the model, fuses batch norms and fixes scales by calibration images. Its graph keeps float copies of the
weights and needs torchao to load. So only the scales are taken from it.
"""

from torch import nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  (registers torch.ops.quantized_decomposed)

from studylib.data.datasets import Data
from studylib.networks import pt2e
from studylib.networks.calibration import Calibrated
from studylib.networks.layers import check_finite, duplicate
from studylib.networks.pt2e import calibration, from_pt2e
from studylib.settings import record


@record
class Quantization(Calibrated):
    """What fixes the scales in :func:`apply`; the paper (section 3.6) says no number of images, this one is ours."""


def apply(
    model: nn.Module, data: Data, *, calibration_images: int = 512, seed: int = 0, bits: int | dict[str, int] = 8
) -> nn.Module:
    """Quantizes every convolution and linear layer after training, calibrated on training images.

    Weights are symmetric, with one scale per output channel. Activations are affine in 8 bits, one scale per input
    (Jacob et al. 2018; Krishnamoorthi 2018, the paper's section 3.6). Zero weights stay zero.

    Args:
        calibration_images: how many training images, drawn by ``seed``, fix the activations' scales.
        bits: of the weights, 2 to 8, or layer → bits; layers that are not named have 8.

    Raises:
        studylib.networks.blocks.SpecError: the model is int8 already, or ``bits`` are not 2 to 8, or of no layer. A
            layer or batch norm cannot be carried over (:func:`studylib.networks.pt2e.export`).
        ValueError: ``calibration_images`` is not between 1 and the number of training images. A number of ``model``, or
            of a layer's output, is not finite.
    """
    check_finite(model.state_dict())
    images = calibration(data, calibration_images, seed)
    float_model = duplicate(model).cpu().eval()
    return from_pt2e(float_model, pt2e.convert(float_model, images, bits=bits))
