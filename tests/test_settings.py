"""Settings as records: what is held against their types and bounds, what is said of a wrong one, and their table."""

import dataclasses
import re
from typing import Annotated, Literal

import pytest
from pydantic import Field

from engine.settings import chapters
from studylib import settings
from studylib.settings import SettingError, read, record


@record
class Own:
    """A record with a field of each kind."""

    count: Annotated[int, Field(ge=1, le=9, description="how many")]
    share: Annotated[float, Field(gt=0, lt=1, description="of all")] = 0.5
    name: Annotated[str, Field(description="what it is called")] = ""
    kind: Annotated[Literal["round", "square"], Field(description="its form")] = "round"
    quick: Annotated[bool, Field(description="without waiting")] = False
    sizes: Annotated[list[Annotated[int, Field(ge=2, le=8)]], Field(min_length=1, max_length=3, description="each")] = (
        dataclasses.field(default_factory=lambda: [2, 3])
    )

    def check(self) -> None:
        if self.sizes != sorted(self.sizes):
            raise ValueError(f"sizes={self.sizes!r}: expected ascending ones")


@record
class Narrower(Own):
    """One that takes over another's fields and check."""

    share: Annotated[float, Field(ge=0.25, le=0.75, description="of a half")] = 0.25


def said(given, kind=Own, name="own"):
    """What is said of ``given``, in one line."""
    with pytest.raises(SettingError) as caught:
        read(kind, given, name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_dictionary_becomes_a_record_and_what_it_leaves_out_is_the_default():
    own = read(Own, {"count": 3, "sizes": [4, 8]}, "own")
    assert own == Own(3, 0.5, "", "round", False, [4, 8])
    assert read(Own, own, "own") is own
    assert read(Own, {"count": 1, "share": 0.25}, "own") == Own(count=1, share=0.25)
    assert Own(1).sizes is not Own(1).sizes  # nobody's change reaches another's


def test_a_record_is_not_changed_once_it_is_made():
    own = Own(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        own.count = 2
    assert dataclasses.replace(own, count=2) == Own(2)
    with pytest.raises(SettingError, match=r"^count=0: expected at least 1$"):
        dataclasses.replace(own, count=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "own.count=0: expected at least 1"),
        ({"count": 10}, "own.count=10: expected at most 9"),
        ({"count": 2**64}, f"own.count={2**64}: expected at most 9"),
        ({"count": 10**400}, f"own.count={10**400}: expected at most 9"),
        ({"count": 1.0}, "own.count=1.0: expected a whole number"),
        ({"count": "1"}, "own.count='1': expected a whole number"),
        ({"count": True}, "own.count=True: expected a whole number"),
        ({"count": None}, "own.count=None: expected a whole number"),
        ({"count": 1, "share": 0}, "own.share=0: expected above 0.0"),
        ({"count": 1, "share": 1.0}, "own.share=1.0: expected below 1.0"),
        ({"count": 1, "share": "half"}, "own.share='half': expected a number"),
        ({"count": 1, "share": False}, "own.share=False: expected a number"),
        ({"count": 1, "share": float("nan")}, "own.share=nan: expected a finite number"),
        ({"count": 1, "share": float("inf")}, "own.share=inf: expected a finite number"),
        ({"count": 1, "share": -float("inf")}, "own.share=-inf: expected a finite number"),
        ({"count": 1, "name": 3}, "own.name=3: expected a text"),
        ({"count": 1, "name": b"x"}, "own.name=b'x': expected a text"),
        ({"count": 1, "kind": "rond"}, "own.kind='rond': expected one of 'round' or 'square'"),
        ({"count": 1, "kind": 3}, "own.kind=3: expected one of 'round' or 'square'"),
        ({"count": 1, "quick": 1}, "own.quick=1: expected true or false"),
        ({"count": 1, "quick": "yes"}, "own.quick='yes': expected true or false"),
        ({"count": 1, "sizes": 3}, "own.sizes=3: expected a list"),
        ({"count": 1, "sizes": (2, 3)}, "own.sizes=(2, 3): expected a list"),
        ({"count": 1, "sizes": "23"}, "own.sizes='23': expected a list; -y 'sizes: […]' hands one on, -p text alone"),
        ({"count": 1, "sizes": []}, "own.sizes=[]: expected at least 1 of them"),
        ({"count": 1, "sizes": [2, 3, 4, 5]}, "own.sizes=[2, 3, 4, 5]: expected at most 3 of them"),
        ({"count": 1, "sizes": [2, 9]}, "own.sizes[1]=9: expected at most 8"),
        ({"count": 1, "sizes": [2, "x"]}, "own.sizes[1]='x': expected a whole number"),
        ({"count": 1, "sizes": [3, 2]}, "own.sizes=[3, 2]: expected ascending ones"),
        ({"coutn": 1}, "own.coutn: unknown; did you mean 'count'?"),
        ({"count": 1, "zzz": 1}, "own.zzz: unknown: expected one of count, share, name, kind, quick, sizes"),
        ({"count": 1, 7: 1}, "own.7: unknown: expected one of count, share, name, kind, quick, sizes"),
        ({}, "own.count: missing"),
        ({"share": 0.1}, "own.count: missing"),
        (3, "own=3: expected a dictionary"),
        ([], "own=[]: expected a dictionary"),
        (None, "own=None: expected a dictionary"),
        (
            {"count": 1, "sizes": "[2, 3]"},
            "own.sizes='[2, 3]': expected a list; -y 'sizes: […]' hands one on, -p text alone",
        ),
        (
            "{count: 3}",
            "own='{count: 3}': expected a dictionary; -y 'own: {…}' hands one on, -p text alone",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(given, message):
    assert said(given) == message


def test_of_an_error_without_words_of_ours_pydantic_has_its_own(monkeypatch):
    monkeypatch.setattr(settings, "KINDS", {})
    assert said({"count": 0}) == "own.count=0: expected Input should be greater than or equal to 1"


def test_one_that_is_of_another_record_is_no_dictionary():
    assert said(settings.Study("digits")).startswith("own=Study(dataset='digits'")
    assert read(Own, Narrower(2), "own") == Narrower(2)  # but one that goes further is one


def test_a_record_takes_over_fields_and_check_of_another_and_has_its_own_bounds():
    assert read(Narrower, {"count": 1}, "own").share == 0.25
    assert said({"count": 1, "share": 0.9}, Narrower) == "own.share=0.9: expected at most 0.75"
    assert said({"count": 1, "sizes": [3, 2]}, Narrower) == "own.sizes=[3, 2]: expected ascending ones"
    assert Own(1, 0.9).share == 0.9


def test_an_integer_is_a_number_and_stays_what_it_is():
    @record
    class Rate:
        lr: Annotated[float, Field(gt=0, le=10, description="of learning")] = 1.0

    assert read(Rate, {"lr": 5}, "rate").lr == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dephts", "; did you mean 'depth'?"),
        ("Growth", "; did you mean 'growth'?"),
        ("qqq", ": expected one of depth, growth"),
        ("", ": expected one of depth, growth"),
    ],
)
def test_the_nearest_name_is_offered_or_else_all_of_them(name, message):
    assert settings.nearest(name, ["depth", "growth"]) == message


def test_the_table_has_each_setting_in_force_its_default_and_its_meaning():
    rows = settings.table({"own": Own(3, share=0.25), "study": settings.Study("digits", seed=4)})
    assert {tuple(row) for row in rows} == {("setting", "value", "default", "meaning")}
    assert [tuple(row.values()) for row in rows[:6]] == [
        ("own.count", "3", "–", "how many"),
        ("own.share", "0.25", "0.5", "of all"),
        ("own.name", "''", "''", "what it is called"),
        ("own.kind", "'round'", "'round'", "its form"),
        ("own.quick", "False", "False", "without waiting"),
        ("own.sizes", "[2, 3]", "[2, 3]", "each"),
    ]
    assert [row["setting"] for row in rows[6:]] == [
        f"study.{each}" for each in ("dataset", "seed", "threads", "device")
    ]
    assert [row["value"] for row in rows[6:]] == ["'digits'", "4", "0", "'auto'"]


RECORDS = {
    f"{stage}.{parameter}": chapter.record(parameter)
    for stage, chapter in chapters.declared().items()
    for parameter in chapter.records
}


@pytest.mark.parametrize("name", list(RECORDS))
def test_every_record_of_a_chapter_says_what_it_is_and_each_setting_means(name):
    made = RECORDS[name]()  # every setting has a default
    assert RECORDS[name].__doc__ and not RECORDS[name].__doc__.startswith(RECORDS[name].__name__)
    rows = settings.table({name: made})
    assert len(rows) == len(dataclasses.fields(made)) > 0
    for row in rows:
        assert re.search(r"\w{2}", row["meaning"]) and "\n" not in row["meaning"], row["setting"]
        assert row["value"] == row["default"] != "–", row["setting"]
    assert read(RECORDS[name], dataclasses.asdict(made), name) == made


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "digits", "seed": -1}, "study.seed=-1: expected at least 0"),
        ({"dataset": "digits", "seed": 2**32}, "study.seed=4294967296: expected at most 4294966295"),
        ({"dataset": "digits", "threads": 1025}, "study.threads=1025: expected at most 1024"),
        ({"dataset": "digits", "threads": -1}, "study.threads=-1: expected at least 0"),
        ({"dataset": "digits", "device": "gpu"}, "study.device='gpu': expected one of 'auto', 'cpu' or 'cuda'"),
        ({"dataset": "digits", "sed": 1}, "study.sed: unknown; did you mean 'seed'?"),
        ({"seed": 1}, "study.dataset: missing"),
        ("digits", "study='digits': expected a dictionary; -y 'study: {…}' hands one on, -p text alone"),
    ],
)
def test_what_a_notebook_is_run_on_is_a_record_too(given, message):
    assert said(given, settings.Study, "study") == message
