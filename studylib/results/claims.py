"""What the paper, the survey and the thesis claim, read from ``claims.toml``, and records of what was measured.

:mod:`studylib.results.verdicts` judges the claims.
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
    """One published statement."""

    chapter: str  # stage whose notebook answers it
    says: str  # ``{}`` in it stands for the published value
    where: str  # section or figure
    value: float  # what was published, in ``unit``; the threshold where ``direction`` is set
    unit: Literal["%", "points", "points of the plane", "nats", "bytes"]  # points of accuracy; of the plane dominated
    tolerance: Annotated[float, Field(ge=0)] = 0.0  # how far from ``value`` a measured one counts as the same
    direction: Literal["", "+", "-"] = ""  # the claim is only that what is measured lies above or below ``value``
    anywhere: bool = False  # it can be held against any data set; else against the paper's own only
    elsewhere: str = ""  # why it can be held against nothing here
    sampled: bool = False  # an accuracy or a mean over images, which without an interval says nothing
    nodes: dict[str, int] = dataclasses.field(default_factory=dict)  # node → weight of its test accuracy, summed
    saved: NodeAndColumn | None = None  # a node, and the accounting by which it saves of the teacher's bytes
    taken: NodeAndColumn | None = None  # a node, and the accounting by which it takes bytes
    own: bool = False  # it is about the paper's own network, whatever the technique

    def check(self) -> None:
        if ("{}" in self.says) == bool(self.direction):
            raise ValueError(f"says={self.says!r}: expected {{}} in it, unless a direction is claimed")


def read(path: Path) -> dict[str, Claim]:
    """The claims in the TOML file ``path``, a table each, ``[chapter.key]``: key → claim, in its order.

    SettingError, with file, claim and key: not TOML, an unknown, missing or repeated key, a value of another type.
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
    """What was measured for a claim, in its unit: the value, a confidence interval if there is one, and n."""

    value: float  # infinite: it was looked for, and nothing has it
    low: float = math.nan
    high: float = math.nan
    n: int = 1  # seeds behind it; of an interval over the images of a single one, the verdict says so
    against: str = ""  # the rival, where there are several
