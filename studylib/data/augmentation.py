"""Batched augmentation: what training images go through, a whole batch at once, on any device."""

import dataclasses
import math

import torch
import torch.nn.functional as F


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training images go through, each drawn anew for each image and epoch.

    Attributes:
        padding: crops are shifted by up to this many pixels, zeros come in at the edge.
        flip: mirror half of the images left to right.
        rotation: degrees, uniform in ± this.
        jitter: brightness, contrast and (in colour) saturation, each times a factor uniform in 1 ± this.
    """

    padding: int = 0
    flip: bool = False
    rotation: float = 0.0
    jitter: float = 0.0


def augment(images: torch.Tensor, how: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """A randomly changed view of each image, whole batch at once on the images' device.

    Args:
        images: uint8 (n, c, h, w).
        generator: the only source of randomness, on the images' device.

    Returns:
        float32 (n, c, h, w) in 0…255.
    """
    if how == Augmentation():
        return images.float()

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(len(images), generator=generator, device=images.device) * (high - low) + low

    def shift() -> torch.Tensor:
        return uniform(0, 2 * how.padding + 1).floor().clamp_(max=2 * how.padding) - how.padding

    n, channels, height, width = images.shape
    none = torch.zeros(n, device=images.device)
    mirror = uniform(0, 1) < 0.5 if how.flip else none.bool()
    shift_y, shift_x = (shift() if how.padding else none for _ in range(2))
    if how.rotation:
        angle = uniform(-how.rotation, how.rotation) * (math.pi / 180)
        cos, sin = angle.cos(), angle.sin()
        sign = torch.where(mirror, -1.0, 1.0)
        rows = [cos * sign, -sin * sign, 2 * shift_x / width, sin, cos, 2 * shift_y / height]
        theta = torch.stack(rows, dim=1).view(n, 2, 3)
        grid = F.affine_grid(theta, [n, channels, height, width], align_corners=False)
        out = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    else:
        out = _shift(images, shift_y.long(), shift_x.long(), mirror, how.padding).float()
    return _jitter(out, uniform, how.jitter) if how.jitter else out


def _shift(images, shift_y, shift_x, mirror, padding):
    """Integer crops of the zero-padded images, mirrored where ``mirror``; exact, uint8 to uint8."""
    n, _, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    y = torch.arange(height, device=images.device) + (shift_y + padding)[:, None]
    x = torch.arange(width, device=images.device)
    x = torch.where(mirror[:, None], width - 1 - x, x) + (shift_x + padding)[:, None]
    index = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)


def _jitter(images, uniform, strength):
    """Brightness, contrast and saturation, in that order, as torchvision's ColorJitter defines them."""

    def factor():
        return uniform(1 - strength, 1 + strength)[:, None, None, None]

    def grey(x):
        weights = torch.tensor([0.2989, 0.587, 0.114], device=x.device)[:, None, None]
        return (x * weights).sum(1, keepdim=True) if x.shape[1] == 3 else x.mean(1, keepdim=True)

    images = (images * factor()).clamp_(0, 255)
    images = torch.lerp(grey(images).mean((2, 3), keepdim=True).expand_as(images), images, factor()).clamp_(0, 255)
    if images.shape[1] == 3:
        images = torch.lerp(grey(images).expand_as(images), images, factor()).clamp_(0, 255)
    return images
