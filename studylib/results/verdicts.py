"""The verdict on each claim from measurements, as data and in words; no number is read from a text."""

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from studylib.results import claims, tables
from studylib.results.claims import CLAIMS, Claim, Measured
from studylib.results.statistics import MANY, seeds_to_decide

COLUMNS = ("paper says", "where", "we measured", "verdict")  # of the table that a chapter ends with
Found = Mapping[str, Measured | Iterable[Measured] | None]
SEEDS, SEEDS_OF_OTHERS = {"digits": 10, "mnist_5k": 10}, 3  # that a verdict needs; 3 where a training takes long


def verdict(claim: Claim, measured: Measured | None, dataset: str) -> str:
    """One of the five verdicts, with the reason where it is not a plain yes or no.

    A direction is reproduced where the whole interval lies on its side of the claim's value. A value is where it lies
    within the tolerance. It is not where all lies on the other side, or beyond. Anything else is undecided; so is what
    was sampled and has no interval. Bytes and their shares are exact: they are judged as they are.
    """
    if measured is None or math.isnan(measured.value):
        return claims.NOT_MEASURED
    if claim.elsewhere:
        return f"{claims.NOT_COMPARABLE}: {claim.elsewhere}"
    if not claim.anywhere and dataset != claims.PAPER_DATA:
        return f"{claims.NOT_COMPARABLE}: {dataset}, not CIFAR-10"
    bare = math.isnan(measured.low)
    if bare and (claim.direction or claim.sampled or claim.unit == "points"):
        return f"{claims.UNDECIDED}: no interval"
    low, high = (measured.value, measured.value) if bare else (measured.low, measured.high)
    if claim.direction:
        above, below = low > claim.value, high < claim.value
        yes, no = (above, below) if claim.direction == "+" else (below, above)
    else:
        least, most = claim.value - claim.tolerance, claim.value + claim.tolerance
        yes, no = least <= low and high <= most, high < least or low > most
    if not (yes or no):
        return f"{claims.UNDECIDED}: {_held(claim, low, high)}{_would_decide(claim, measured)}"
    found = claims.REPRODUCED if yes else claims.CONTRADICTED
    return found if bare or measured.n > 1 else f"{found} (one seed)"


def _held(claim: Claim, low: float, high: float) -> str:
    """What an interval holds that keeps it from deciding: zero, or a published value, or the edges of its tolerance."""
    if claim.direction and not claim.value:
        return "within noise"
    ends = sorted({claim.value - claim.tolerance, claim.value + claim.tolerance})
    held = [_with_unit(end, claim.unit) for end in ends if low <= end <= high]
    what = f", {'edges' if len(held) > 1 else 'an edge'} of the tolerance" if claim.tolerance else ""
    return f"the interval holds {' and '.join(held)}{what}"


def _would_decide(claim: Claim, measured: Measured) -> str:
    """How many seeds would, in words, if they spread as those measured do; "(one seed)" where that says nothing."""
    off = abs(measured.value - claim.value)
    distance = off if claim.direction else abs(off - claim.tolerance)
    seeds = seeds_to_decide(measured.high - measured.value, measured.n, distance)
    if math.isnan(seeds):
        return " (one seed)"
    return f"; more than {MANY} seeds would decide" if math.isinf(seeds) else f"; n = {seeds:.0f} would decide"


def rows(chapter: str, measured: Found, dataset: str, other: str = "") -> list[dict]:
    """Every claim of ``chapter`` beside what was measured: rows of claim (its key) and :data:`COLUMNS`.

    Args:
        measured: claim → what was measured, or several, each against another rival; KeyError where it is none of these.
        other: the network measured, where it is not the paper's own. What is said of that is not comparable.
    """
    own = {key: claim for key, claim in CLAIMS.items() if claim.chapter == chapter}
    for key in measured:
        if key not in own:
            raise KeyError(f"{key!r}: expected one of the claims of {chapter}: {', '.join(own)}")
    return [
        {"claim": key, **row(claim, found, dataset, other)}
        for key, claim in own.items()
        for found in _several(measured.get(key)) or [None]
    ]


def row(claim: Claim, found: Measured | None, dataset: str, other: str = "") -> dict[str, str]:
    """The cells of :data:`COLUMNS` for one claim; ``other`` as for :func:`rows`."""
    says = statement(claim) + (f" (against the {found.against})" if found and found.against else "")
    judged = f"{claims.NOT_COMPARABLE}: {other}" if found and other and claim.own else verdict(claim, found, dataset)
    return dict(zip(COLUMNS, (says, claim.where, text(found, claim.unit), judged), strict=True))


def table(chapter: str, measured: Found, dataset: str, other: str = "") -> str:
    """:func:`rows` in Markdown."""
    found = pd.DataFrame(rows(chapter, measured, dataset, other), columns=COLUMNS)
    return tables.markdown_rows(found, right=["we measured"])


def too_few_seeds(measured: Found, dataset: str) -> str:
    """A sentence where a measured interval is of fewer seeds than a verdict needs (:data:`SEEDS`); else empty."""
    needed = SEEDS.get(dataset, SEEDS_OF_OTHERS)
    counts = [m.n for each in measured.values() for m in _several(each) if not math.isnan(m.low)]
    if min(counts, default=needed) >= needed:
        return ""
    return f"A trial: n = {min(counts)}, where a verdict needs {needed} seeds. What it says may be chance."


def _several(found: Measured | Iterable[Measured] | None) -> list[Measured]:
    return [found] if isinstance(found, Measured) else list(found or [])


def to_json(measured: Found) -> list[dict]:
    """Rows of claim, value ("none": nothing has it), low, high (null where there is none), n, unit and against."""
    found = []
    for key, each in measured.items():
        for m in _several(each):
            low, high = (None if math.isnan(end) else float(end) for end in (m.low, m.high))
            value = None if math.isnan(m.value) else "none" if math.isinf(m.value) else float(m.value)
            row = {"claim": key, "value": value, "low": low, "high": high, "n": int(m.n), "unit": CLAIMS[key].unit}
            found.append(row | ({"against": m.against} if m.against else {}))
    return found


def from_json(rows: Iterable[dict]) -> dict[str, list[Measured]]:
    """What :func:`to_json` was given; a claim that is none any more is left out."""
    measured: dict[str, list[Measured]] = {}
    words = {None: math.nan, "none": math.inf}
    for row in rows:
        if row["claim"] in CLAIMS:
            numbers = (words.get(row[key], row[key]) for key in ("value", "low", "high"))
            measured.setdefault(row["claim"], []).append(Measured(*numbers, row["n"], row.get("against", "")))
    return measured


def statement(claim: Claim) -> str:
    """What ``claim`` says, its value in it."""
    return claim.says.format(_with_unit(claim.value, claim.unit))


def _with_unit(value: float, unit: str, digits: int | None = None) -> str:
    if unit == "bytes":
        return f"{value:,.0f} bytes"
    if digits is None:
        return f"{value:g} {unit}"
    return f"{value:{'' if unit == '%' else '+'}.{digits}f} {unit}"


def text(found: Measured | None, unit: str) -> str:
    """What was measured, in words: value and interval, a dash where it was not."""
    if found is None or math.isnan(found.value):
        return "–"
    if math.isinf(found.value):
        return "none does"
    digits = 5 if unit == "nats" else 2
    said = _with_unit(found.value, unit, digits)
    if not math.isnan(found.low):
        ends = [_with_unit(end, unit, digits).removesuffix(f" {unit}") for end in (found.low, found.high)]
        many = f"; n = {found.n}" if found.n > 1 else ""
        said += f" ({ends[0]} to {ends[1]}{many})"
    return said
