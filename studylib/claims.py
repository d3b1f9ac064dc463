"""What the paper, the survey and the thesis claim, as data, and the verdict on each claim from what was measured.

*The paper* is Mountain and Bharatia, Combinatorics with Model Compression; *the survey* a study of model-zoo sizes;
*the thesis* one on compression by multi-objective optimization.
This is the only place where their figures are typed; :mod:`studylib.marks` has those of others.
"""

import math
import re
from dataclasses import dataclass

PAPER_DATA = "cifar10"
LAST_DIGIT = 0.005  # points of a saving that the paper gives with two decimals
PAPER_DEPTH = 40  # our inference: growth 12 then gives about its bytes; the paper names no depth

PLANE = "points of the plane"  # hypervolume: what a way to train dominates, chapter 6

REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "not reproduced", "undecided"
NOT_COMPARABLE, NOT_MEASURED = "not comparable", "not measured"


@dataclass(frozen=True)
class Claim:
    """One published statement.

    Attributes:
        chapter: stage whose notebook answers it.
        says: the statement; ``{}`` stands for the published value.
        where: section or figure.
        value: what was published, in ``unit``; the threshold where ``direction`` is set.
        unit: %, points (of accuracy), points of the plane (dominated), nats, bytes.
        tolerance: how far a measured value may lie from ``value`` and count as the same (:func:`verdict`).
        direction: + or −: the claim is only that the measured value lies above or below ``value``.
        anywhere: it can be held against any data set; else against the paper's own only.
        elsewhere: why it can be held against nothing here.
        sampled: it is an accuracy or a mean over images, which without an interval says nothing.
    """

    chapter: str
    says: str
    where: str
    value: float
    unit: str
    tolerance: float = 0.0
    direction: str = ""
    anywhere: bool = False
    elsewhere: str = ""
    sampled: bool = False


CLAIMS = {
    "teacher_accuracy": Claim("teacher", "DenseNet reaches {}", "section 5", 92.8, "%", 0.5, sampled=True),
    "teacher_bytes": Claim("teacher", "its parameters take {}", "section 5", 3.95e6, "bytes", 0.2e6),
    "kd_alone": Claim("kd", "the student without a teacher reaches {}", "Figure 3", 75.0, "%", 2.0, sampled=True),
    "kd_taught": Claim("kd", "the student with a teacher reaches {}", "Figure 4", 80.0, "%", 2.0, sampled=True),
    "kd_gain": Claim("kd", "a teacher adds {}", "section 3.3", 5.0, "points", 2.0),
    "kd_helps": Claim("kd", "a teacher helps at all", "section 3.3", 0.0, "points", direction="+", anywhere=True),
    "imp_saved": Claim("imp", "pruning alone saves {}", "section 5.2", 88.1, "%", 2.0),
    "imp_cost": Claim("imp", "it costs {} of accuracy", "section 5.2", 0.9, "points", 0.5),
    "svd_cost": Claim(
        "svd", "SVD at Δ = 1 lowers accuracy", "section 5.1", 0.0, "points", direction="+", anywhere=True
    ),
    "svd_delta": Claim("svd", "accuracy falls as Δ grows", "Figure 5", 0.0, "points", direction="+", anywhere=True),
    "svd_tuned": Claim(
        "svd", "fine-tuning recovers some of it", "section 6", 0.0, "points", direction="+", anywhere=True
    ),
    "int8_saved": Claim("int8", "int8 alone saves {}", "section 5.2", 73.1, "%", 2.0, anywhere=True),
    "int8_cost": Claim("int8", "it costs {} of accuracy", "section 5.2", 0.3, "points", 0.3),
    "static_saved": Claim("int8", "static int8 saves {}", "the survey", 74.0, "%", 2.0, anywhere=True),
    "dynamic_saved": Claim(
        "int8",
        "dynamic int8 of linear layers saves {}",
        "the survey",
        56.0,
        "%",
        elsewhere="the mean of twelve other models, by their share of linear layers",
    ),
    "moo_one_shot": Claim(
        "moo",
        "common descent outperforms the weighted sum one-shot",
        "the thesis, abstract",
        0.0,
        PLANE,
        direction="+",
        anywhere=True,
    ),
    "moo_tuned": Claim(
        "moo",
        "and after fine-tuning",
        "the thesis, abstract",
        0.0,
        PLANE,
        direction="+",
        anywhere=True,
    ),
    "moo_common": Claim(
        "moo",
        "every step descends all objectives: {} of steps raise one",
        "the thesis, abstract",
        0.0,
        "%",
        anywhere=True,
    ),
    "pruned_loses_less": Claim(
        "sweep", "pruned weights lose less to int8 (KL)", "section 5.2", 0.0, "nats", direction="-", anywhere=True
    ),
    "best_bytes": Claim("sweep", "pruning + int8 takes {}", "section 5", 6200.0, "bytes", 50.0),
    "best_saved": Claim("sweep", "pruning + int8 saves {}", "abstract", 99.84, "%", 0.5, anywhere=True),
    "best_accuracy": Claim("sweep", "it reaches {}", "section 5", 91.65, "%", 0.5, sampled=True),
    "teacher_accuracy_method": Claim("audit", "DenseNet reaches {}", "sections 3.1 and 3.2", 92.7, "%", 0.05),
    "best_relative": Claim("audit", "it costs {} of the accuracy", "abstract", 1.24, "%", 0.005),
    "pruned_int8_cost": Claim("audit", "int8 costs the pruned network {}", "section 5.2", 0.21, "points", 0.3),
    "small_bytes": Claim("frontier", "what reaches 91.65 % takes {}", "section 5", 6200.0, "bytes", 50.0),
    "best_cost": Claim("sweep", "and costs {} of accuracy", "section 5", 1.15, "points", 0.5),
    "svd_worst": Claim(
        "sweep", "SVD hurts more on a pruned network", "section 5.1", 0.0, "points", direction="+", anywhere=True
    ),
    "int8_mends": Claim(
        "sweep", "int8 raises accuracy after pruning + SVD", "section 5.1", 0.0, "points", direction="+", anywhere=True
    ),
    "int8_mends_kd": Claim(
        "sweep",
        "so it does after distillation + pruning + SVD",
        "section 5.1",
        0.0,
        "points",
        direction="+",
        anywhere=True,
    ),
    "pruning_helps_int8": Claim(
        "sweep",
        "int8 costs less accuracy on a pruned network",
        "section 5.2",
        0.0,
        "points",
        direction="+",
        anywhere=True,
    ),
}


@dataclass(frozen=True)
class Measured:
    """What was measured for a claim, in the claim's unit: the value, an interval of confidence if there is one, and n.

    ``n`` is the number of seeds behind it; of an interval over the images of a single one, the verdict says so. An
    infinite value: it was looked for, and nothing has it.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 1


def to_json(measured: dict[str, Measured]) -> dict[str, dict]:
    """Claim → value, low, high (null where there is none), n and unit; a value that nothing has is "none"."""
    found = {}
    for key, m in measured.items():
        low, high = (None if math.isnan(end) else float(end) for end in (m.low, m.high))
        value = None if math.isnan(m.value) else "none" if math.isinf(m.value) else float(m.value)
        found[key] = {"value": value, "low": low, "high": high, "n": int(m.n), "unit": CLAIMS[key].unit}
    return found


def from_json(found: dict[str, dict]) -> dict[str, Measured]:
    """What :func:`to_json` gave."""
    measured = {}
    for key, row in found.items():
        value = math.inf if row["value"] == "none" else math.nan if row["value"] is None else row["value"]
        low, high = (math.nan if row[end] is None else row[end] for end in ("low", "high"))
        measured[key] = Measured(value, low, high, row["n"])
    return measured


def verdict(claim: Claim, measured: Measured | None, dataset: str) -> str:
    """One of the five verdicts, with the reason where it is not a plain yes or no.

    A direction is reproduced where the whole interval lies on its side of the claim's value, and not where it lies on
    the other. A value is reproduced where the whole interval lies within the claim's tolerance of it, and not where the
    interval lies beyond. Anything else is undecided; so is what was sampled and has no interval. Shares of bytes, and
    bytes, are exact: they are judged as they are.
    """
    if measured is None or math.isnan(measured.value):
        return NOT_MEASURED
    if claim.elsewhere:
        return f"{NOT_COMPARABLE}: {claim.elsewhere}"
    if not claim.anywhere and dataset != PAPER_DATA:
        return f"{NOT_COMPARABLE}: {dataset}, not CIFAR-10"
    bare = math.isnan(measured.low)
    if bare and (claim.direction or claim.sampled or claim.unit == "points"):
        return f"{UNDECIDED}: no interval"
    low, high = (measured.value, measured.value) if bare else (measured.low, measured.high)
    if claim.direction:
        above, below = low > claim.value, high < claim.value
        yes, no = (above, below) if claim.direction == "+" else (below, above)
    else:
        least, most = claim.value - claim.tolerance, claim.value + claim.tolerance
        yes, no = least <= low and high <= most, high < least or low > most
    if not (yes or no):
        return f"{UNDECIDED}: within noise{_would_decide(claim, measured)}"
    found = REPRODUCED if yes else CONTRADICTED
    return found if bare or measured.n > 1 else f"{found} (one seed)"


def _would_decide(claim: Claim, measured: Measured) -> str:
    """How many seeds would, in words, if they spread as those measured do; empty where one seed was measured."""
    from studylib import factorial

    off = abs(measured.value - claim.value)
    distance = off if claim.direction else abs(off - claim.tolerance)
    seeds = factorial.seeds_to_decide(measured.high - measured.value, measured.n, distance)
    if math.isnan(seeds):
        return ""
    return (
        f"; more than {factorial.MANY} seeds would decide" if math.isinf(seeds) else f"; n = {seeds:.0f} would decide"
    )


HEADER = "| paper says | where | we measured | verdict |"  # of the table that a chapter ends with


def audit() -> list[dict]:
    """The paper's figures about pruning + int8 beside what its others imply: rows of what, reported, implied, by."""
    said = {key: claim.value for key, claim in CLAIMS.items()}
    left = (1 - said["imp_saved"] / 100) * (1 - said["int8_saved"] / 100)
    by_bytes = 100 * (1 - said["best_bytes"] / said["teacher_bytes"])
    by_accuracy = said["teacher_accuracy"] - said["best_accuracy"]
    step_by_step = said["teacher_accuracy"] - said["imp_cost"] - said["pruned_int8_cost"]
    rows = [
        ("saving (%)", "best_saved", 100 * (1 - left), "what pruning and int8 save alone, multiplied"),
        ("bytes", "best_bytes", said["teacher_bytes"] * left, "the same, from the teacher's bytes"),
        ("saving (%)", "best_saved", by_bytes, "its bytes over the teacher's"),
        ("cost (points)", "best_cost", by_accuracy, "the difference of the accuracies"),
        ("cost (% of the accuracy)", "best_relative", 100 * by_accuracy / said["teacher_accuracy"], "the same"),
        ("accuracy (%)", "best_accuracy", step_by_step, "the teacher's less each step's cost"),
        ("teacher's accuracy (%)", "teacher_accuracy", said["teacher_accuracy_method"], "its sections on method"),
    ]
    return [{"what": what, "reported": said[key], "implied": implied, "by": by} for what, key, implied, by in rows]


def table(chapter: str, measured: dict[str, Measured | None], dataset: str) -> str:
    """Markdown: paper says, we measured, verdict, for every claim of ``chapter``.

    Args:
        measured: key of :data:`CLAIMS` → what was measured; a claim left out was not measured.

    Raises:
        KeyError: a key that is no claim of ``chapter``.
    """
    claims = {key: claim for key, claim in CLAIMS.items() if claim.chapter == chapter}
    for key in measured:
        if key not in claims:
            raise KeyError(f"{key!r}: expected one of the claims of {chapter}: {', '.join(claims)}")
    lines = [HEADER, "|---|---|---:|---|"]
    for key, claim in claims.items():
        found = measured.get(key)
        cells = [statement(claim), claim.where, _text(found, claim.unit), verdict(claim, found, dataset)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def statement(claim: Claim) -> str:
    """What ``claim`` says, its value in it."""
    return claim.says.format(_with_unit(claim.value, claim.unit))


def rows(table: str) -> list[dict[str, str]]:
    """What :func:`table` wrote, a dictionary a claim, its keys those of :data:`HEADER`; [] for another text."""
    lines = table.strip().splitlines()
    if not lines or lines[0] != HEADER:
        return []
    names, *said = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in [lines[0], *lines[2:]])
    return [dict(zip(names, cells, strict=True)) for cells in said]


def judged_again(row: dict, n: int, dataset: str) -> dict:
    """A row of :func:`rows`, its verdict by the rules of today; what was measured, of ``n`` seeds, is in its text.

    Unchanged if it says what no claim says, such as one that was worded otherwise then.
    """
    claim = next((claim for claim in CLAIMS.values() if statement(claim) == row["paper says"]), None)
    if claim is None:
        return row
    text = row["we measured"].replace(",", "").replace("none does", "inf")
    numbers = [float(number) for number in re.findall(r"[+-]?(?:\d+\.?\d*|inf)", text)]
    return row | {"verdict": verdict(claim, Measured(*numbers, n=n) if numbers else None, dataset)}


def _with_unit(value: float, unit: str, digits: int | None = None) -> str:
    if unit == "bytes":
        return f"{value:,.0f} bytes"
    number = (
        f"{value:g}"
        if digits is None
        else f"{value:+.{digits}f}"
        if unit in ("points", PLANE, "nats")
        else f"{value:.{digits}f}"
    )
    return f"{number} {unit}"


def _text(found: Measured | None, unit: str) -> str:
    if found is None or math.isnan(found.value):
        return "–"
    if math.isinf(found.value):
        return "none does"
    digits = {"nats": 5}.get(unit, 2)
    text = _with_unit(found.value, unit, digits)
    if not math.isnan(found.low):
        ends = [_with_unit(end, unit, digits).removesuffix(f" {unit}") for end in (found.low, found.high)]
        text += f" ({ends[0]} to {ends[1]})"
    return text
