"""What the paper, the survey and the thesis claim, read from ``claims.toml``, and records of what was measured.

:mod:`studylib.results.verdicts` judges the claims; :mod:`studylib.results.marks` has figures of others.
"""

import dataclasses
import math
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from studylib import settings

PAPER_DATA = "cifar10"
PAPER_DEPTH = 40  # our inference: growth 12 then gives about its bytes; the paper names no depth
PLANE = "points of the plane"  # hypervolume: what a way to train dominates, chapter 6
REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "not reproduced", "undecided"
NOT_COMPARABLE, NOT_MEASURED = "not comparable", "not measured"

NodeAndColumn = Annotated[list[str], Field(min_length=2, max_length=2)]


@settings.record
class Claim:
    """One published statement.

    Attributes:
        chapter: stage whose notebook answers it.
        says: the statement; ``{}`` stands for the published value.
        where: section or figure.
        value: what was published, in ``unit``; the threshold where ``direction`` is set.
        unit: %, points (of accuracy), points of the plane (dominated), nats, bytes.
        tolerance: how far a measured value may lie from ``value`` and count as the same.
        direction: + or −: the claim is only that the measured value lies above or below ``value``.
        anywhere: it can be held against any data set; else against the paper's own only.
        elsewhere: why it can be held against nothing here.
        sampled: it is an accuracy or a mean over images, which without an interval says nothing.
        nodes: node → weight of its test accuracy, of which the claim is the sum.
        saved, taken: a node, and the accounting by which it saves of the teacher's bytes, or takes bytes.
        own: it is about the paper's own network, whatever the technique.
    """

    chapter: str
    says: str
    where: str
    value: float
    unit: Literal["%", "points", "points of the plane", "nats", "bytes"]
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    direction: Literal["", "+", "-"] = ""
    anywhere: bool = False
    elsewhere: str = ""
    sampled: bool = False
    nodes: dict[str, int] = dataclasses.field(default_factory=dict)
    saved: NodeAndColumn | None = None
    taken: NodeAndColumn | None = None
    own: bool = False

    def check(self) -> None:
        if ("{}" in self.says) == bool(self.direction):
            raise ValueError(f"says={self.says!r}: expected {{}} in it, unless a direction is claimed")


def read(path: Path) -> dict[str, Claim]:
    """The claims in the TOML file ``path``, a table each, ``[chapter.key]``: key → claim, in its order.

    Raises:
        studylib.settings.SettingError: it is not TOML; a claim has an unknown key, lacks one or has a value of another
            type; a key is there twice. Names file, claim and key.
    """
    try:
        chapters = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise settings.SettingError(f"{path}: not valid TOML ({error})") from error
    found: dict[str, Claim] = {}
    for chapter, claims in chapters.items():
        for key, given in claims.items():
            name = f"{path.name}: {chapter}.{key}"
            if key in found:
                raise settings.SettingError(f"{name}: there is a {found[key].chapter}.{key}; expected a key of its own")
            if not isinstance(given, dict):
                raise settings.SettingError(f"{name}={given!r}: expected a table")
            found[key] = settings.read(Claim, {"chapter": chapter, **given}, name)
    return found


CLAIMS = read(Path(__file__).with_name("claims.toml"))


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured for a claim, in the claim's unit: the value, an interval of confidence if there is one, and n.

    ``n`` is the number of seeds behind it; of an interval over the images of a single one, the verdict says so. An
    infinite value: it was looked for, and nothing has it. ``against`` names the rival, where there are several.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 1
    against: str = ""
