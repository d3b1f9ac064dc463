"""How many training images fix what a technique reads of them."""

from typing import Annotated

from pydantic import Field

from studylib.data.datasets import Data
from studylib.settings import record


@record
class Calibrated:
    """What fixes the scales of inputs; the records of techniques add to it."""

    calibration_images: Annotated[
        int, Field(ge=1, description="training images that fix the ranges of the layers' inputs")
    ] = 512

    def against(self, data: Data) -> None:
        """Raises ValueError where there are not so many training images."""
        check_calibration(self.calibration_images, data)


def check_calibration(count: int, data: Data, name: str = "calibration_images") -> None:
    """Raises ValueError, with the setting's ``name``, where ``data`` has no ``count`` training images."""
    if not 1 <= count <= len(data.train):
        raise ValueError(f"{name}={count}: expected 1 to {len(data.train)}")
