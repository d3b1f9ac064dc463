"""How many training images fix what a technique reads of them."""

from studylib.data.datasets import Data


def check_calibration(count: int, data: Data) -> None:
    """Raises ValueError where ``data`` has no ``count`` training images."""
    if not 1 <= count <= len(data.train):
        raise ValueError(f"calibration_images={count}: expected 1 to {len(data.train)}")
