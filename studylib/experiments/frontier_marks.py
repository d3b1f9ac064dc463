"""Chapter 8: files on CIFAR-10 that others have reported, and what networks are to reach, beside what was measured."""

import math
from dataclasses import dataclass

from studylib.results.claims import PAPER_DATA


@dataclass(frozen=True)
class Mark:
    """A file on CIFAR-10 that others have reported: test accuracy in %, its bytes, its source.

    ``estimate``: nobody has made such a file; it is what a reported one would take. ``counted``: what its bytes hold.
    """

    accuracy: float
    bytes: float
    whose: str
    estimate: bool = False
    counted: str = ""

    @property
    def label(self) -> str:
        """Whose it is, in few words, and of what accuracy."""
        who = self.whose.partition(" (")[0].partition(",")[0]
        return f"{who} (estimate)" if self.estimate else f"{who}, {self.accuracy:g} %"

    def held_by(self, accuracy: float) -> bool:
        """Whether an accuracy (0…1) reaches the mark's; one that is exactly it does."""
        return 100 * accuracy >= self.accuracy - 1e-9


LATENTS = "coded weights of convolutions and linear layers; its norms are not counted"
ONE_EACH = "each parameter as one byte; no file was written"
IDEAL = "positions coded ideally, biases at two bytes; no file was written"
MARKS = (
    Mark(91.5, 66_000, "LilNetX, ResNet-20-4 (Girish et al. 2023)", counted=LATENTS),
    Mark(90.0, 76_000, "LilNetX, VGG-16 (Girish et al. 2023)", counted=LATENTS),
    Mark(86.5, 11_400, "µNAS, int8, not entropy coded (Liberis et al. 2021)", counted=ONE_EACH),
    Mark(91.65, 15_000, "the paper's smallest, with positions and biases counted (our estimate)", True, IDEAL),
)
TEACHER_GOAL = 91.0, "our goal"  # % of test images
STUDENT, STUDENT_GOAL = "teacher-kd", (85.0, "our goal")  # its node
PRUNED_GOAL = 0.95, 0.5, "Liu et al. 2017 (network slimming); Renda et al. 2020"  # share of zeros, points it may cost


def of_data(dataset: str) -> tuple[Mark, ...]:
    """:data:`MARKS`, or none where ``dataset`` is another than theirs."""
    return MARKS if dataset == PAPER_DATA else ()


def against_marks(points: list[dict], dataset: str) -> list[dict]:
    """Each of :data:`MARKS` beside the smallest file that holds its accuracy on **validation** images.

    What is chosen so has seen no test image; whether it passes is then said by the test set.

    Args:
        points: rows of name, bytes, val_accuracy and test_accuracy (0…1).
        dataset: what they were measured on.

    Returns:
        Rows of mark %, kB, from, ours (name), our kB, our %, verdict; no rows for another data set than CIFAR-10.
    """
    rows = []
    for mark in of_data(dataset):
        enough = [point for point in points if mark.held_by(point["val_accuracy"])]
        none = {"name": "–", "bytes": math.nan, "test_accuracy": math.nan}
        ours = min(enough, key=lambda point: point["bytes"], default=none)
        if not enough:
            best = max((100 * point["val_accuracy"] for point in points), default=math.nan)
            verdict = f"not reached (validation {best:.2f} %)"
        elif not mark.held_by(ours["test_accuracy"]):
            verdict = "less accurate on test images"
        else:
            verdict = "passed" if ours["bytes"] <= mark.bytes else "larger"
        row = {"mark %": mark.accuracy, "kB": mark.bytes / 1000, "from": mark.whose, "ours": ours["name"]}
        own = {"our kB": ours["bytes"] / 1000, "our %": 100 * ours["test_accuracy"], "verdict": verdict}
        rows.append(row | own)
    return rows
