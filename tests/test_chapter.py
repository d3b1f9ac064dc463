"""A chapter's rows, made and kept or read where they are published, and the errors where they cannot be."""

import dataclasses
import json
import math
from typing import Annotated

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from pydantic import Field

from studylib.disk import files, models
from studylib.results import chapter as chapters
from studylib.results import claims, tables
from studylib.results.chapter import Beside, Chapter
from studylib.results.tables import where_from
from studylib.settings import SettingError, record
from studylib.training.recipe import Recipe
from studylib.tree.node import Node
from studylib.tree.published import FILE, KEYS, Published, frame, plain

NAME, STAGE = "04_svd", "svd"
COST = claims.Measured(1.5, -0.5, 3.5, n=3)
WHOLE = {"chapter": NAME, "about": {"data": {"name": "digits"}}, "settings": {}, "metrics": {}, "rows": {}}
WHOLE["claims"] = []


@record
class Depth:
    """A record of a test's own."""

    depth: Annotated[int, Field(ge=1, description="layers")] = 3
    rates: Annotated[list[float], Field(description="tried")] = dataclasses.field(default_factory=lambda: [0.1, 0.2])


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """What is displayed, in order: texts, and objects that are none."""
    found = []
    monkeypatch.setattr(chapters, "display", lambda each: found.append(getattr(each, "data", each)))
    yield found
    plt.close("all")


def make_chapter(folder, published="", depth=3, study=None, **more):
    node = Node.of(folder / "out", {"dataset": "digits"} | (study or {}), NAME, published)
    return Chapter(node, tuning=Depth(depth), **more)


def counted(rows):
    """A function that gives ``rows``, and the list of its calls."""
    calls = []
    return lambda: calls.append(1) or rows, calls


def never():
    raise AssertionError("it was made again")


def publish(folder, **content):
    """A study that has published the chapter: its folder."""
    study = folder / "study"
    study.mkdir()
    (study / f"{NAME}.json").write_text(json.dumps(WHOLE | content))
    return study


# -- made here


def test_rows_that_were_made_are_kept_and_not_made_again(tmp_path):
    make, calls = counted([{"seed": 1, "share": 0.5}, {"seed": 2, "share": math.nan}])
    first, again = (make_chapter(tmp_path).rows("shares", make) for _ in range(2))
    assert calls == [1] and first.equals(again)
    assert list(first["seed"]) == [1, 2] and math.isnan(first["share"][1])


@pytest.mark.parametrize(
    "other",
    [
        {"depth": 4},
        {"study": {"seed": 1}},
        {"key": lambda: ["another"]},
    ],
)
def test_rows_of_other_settings_another_seed_or_another_key_are_made_anew(tmp_path, other):
    make, calls = counted([{"a": 1}])
    for more in ({}, other, other):
        make_chapter(tmp_path, **more).rows("shares", make)
    assert calls == [1, 1]


def test_how_many_threads_and_where_decides_no_row(tmp_path):
    make, calls = counted([{"a": 1}])
    for study in ({"threads": 1}, {"threads": 2, "device": "cpu"}):
        make_chapter(tmp_path, study=study).rows("shares", make)
    assert calls == [1]


def test_rows_of_another_parent_are_made_anew_and_a_damaged_parent_is_refused(tmp_path, new_student):
    parent, (make, calls) = tmp_path / "parent", counted([{"a": 1}])
    for seed in (0, 0, 1):
        models.save_model(parent, new_student(seed))
        make_chapter(tmp_path, reads=[str(parent), ""]).rows("shares", make)
    assert calls == [1, 1]
    (parent / models.TENSORS).write_bytes(b"damaged")
    with pytest.raises(files.CheckpointError, match="truncated or altered"):
        make_chapter(tmp_path, reads=[str(parent)]).rows("shares", make)


def test_rows_of_another_published_file_are_made_anew(tmp_path):
    file, (make, calls) = tmp_path / "x.slnc", counted([{"a": 1}])
    for content in (b"one", b"one", b"two"):
        file.write_bytes(content)
        make_chapter(tmp_path, reads=[str(file)]).rows("shares", make)
    assert calls == [1, 1]


def test_of_several_tables_each_is_kept_by_its_own_name_and_key(tmp_path):
    chapter = make_chapter(tmp_path)
    assert chapter.one("a", lambda: {"x": 1}) == {"x": 1} and chapter.one("b", lambda: {"x": 2}) == {"x": 2}
    again = make_chapter(tmp_path)
    assert again.one("a", never) == {"x": 1}
    assert again.one("b", lambda: {"x": 3}, "digest of another function") == {"x": 3}


def test_a_chapter_is_saved_by_its_last_cell_with_all_that_it_showed(tmp_path, shown):
    chapter = make_chapter(tmp_path)
    chapter.rows("shares", lambda: pd.DataFrame([{"seed": 2, "share": 0.5}, {"seed": 1, "share": math.nan}]))
    assert not (tmp_path / "out" / FILE).exists()
    chapter.verdicts(STAGE, lambda: {"svd_cost": COST, "svd_delta": None})
    content = json.loads((tmp_path / "out" / FILE).read_text())
    assert list(content) == list(KEYS) and content["chapter"] == NAME and content["metrics"] == {}
    assert content["rows"] == {"shares": [{"seed": 2, "share": 0.5}, {"seed": 1, "share": None}]}
    assert content["about"]["seeds"] == [1, 2] and content["about"]["data"]["name"] == "digits"
    assert content["settings"]["tuning"] == {"depth": 3, "rates": [0.1, 0.2]}
    assert content["settings"]["study"]["dataset"] == "digits"
    assert [(row["claim"], row["value"], row["n"]) for row in content["claims"]] == [("svd_cost", 1.5, 3)]
    assert shown[-1].startswith("| paper says | where | we measured | verdict |") and shown[-1].count("\n") == 4


def test_verdicts_of_too_few_seeds_are_said_to_be_a_trial(tmp_path, shown):
    few, enough, exact = COST, claims.Measured(1.5, 0.5, 3.5, n=10), claims.Measured(1.5)
    for measured in (few, enough, exact, [enough, few]):
        make_chapter(tmp_path).verdicts(STAGE, lambda measured=measured: {"svd_cost": measured})
    trials = [text for text in shown if not text.startswith("|")]
    assert trials == ["*A trial: n = 3, where a verdict needs 10 seeds. What it says may be chance.*"] * 2
    assert shown[0] == trials[0] and len(shown) == 4 + 2


def test_it_says_which_study_it_shows_and_its_settings_with_their_meaning(tmp_path, monkeypatch, shown):
    said = []
    monkeypatch.setattr(tables, "show_study", lambda about, *more: said.append(about))
    make_chapter(tmp_path, depth=5, about={"data": {"name": "mine"}}).show()
    assert said == [{"data": {"name": "mine"}}]
    for text in ("tuning.depth", "<td>5</td>", "<td>3</td>", "layers", "study.seed"):
        assert text in shown[-1]


def test_a_figure_is_shown_and_saved_with_its_rows(tmp_path, shown):
    figure, axis = plt.subplots()
    axis.plot([1, 2])
    make_chapter(tmp_path).figure("line", figure, pd.DataFrame([{"y": 1}, {"y": 2}]))
    there = sorted(path.name for path in (tmp_path / "out" / "figures").iterdir())
    assert there == ["line.json", "line.pdf", "line.png"] and shown == [figure]
    assert json.loads((tmp_path / "out/figures/line.json").read_text())["rows"] == [{"y": 1}, {"y": 2}]
    assert plt.get_fignums() == []


# -- published


def test_a_published_chapter_shows_its_rows_and_claims_and_makes_nothing(tmp_path, shown):
    made = make_chapter(tmp_path)
    rows = made.rows("shares", lambda: [{"seed": 0, "share": 0.5}, {"seed": 1, "share": None}])
    made.verdicts(STAGE, lambda: {"svd_cost": COST, "svd_delta": [COST, claims.Measured(math.inf)]})
    study = tmp_path / "study"
    study.mkdir()
    (study / f"{NAME}.json").write_bytes((tmp_path / "out" / FILE).read_bytes())
    there = make_chapter(tmp_path / "reader", published=study, reads=["runs/nowhere"], key=never, about=never)
    assert there.rows("shares", never).equals(rows) and there.about["seeds"] == [0, 1]
    assert there.about["data"] == made.about["data"]
    assert there.node.make(never) == {} and there.node.model is None
    there.verdicts(STAGE, never)
    assert shown[-1] == shown[-2] and not (tmp_path / "reader" / "out").exists()


@pytest.mark.parametrize(
    ("ours", "message"),
    [
        ({"depth": 4}, r"tuning\.depth=4: .*study was made with 3; expected that, or published=''"),
        ({"study": {"seed": 7}}, r"study\.seed=7: .*study was made with 0; expected that"),
        ({"study": {"dataset": "cifar10"}}, r"study\.dataset='cifar10': .* was made with 'digits'"),
    ],
)
def test_a_setting_that_is_not_the_published_studys_is_an_error_that_names_both_values(tmp_path, ours, message):
    settings = {"study": {"dataset": "digits", "seed": 0, "threads": 1, "device": "auto"}}
    study = publish(tmp_path, settings=settings | {"tuning": {"depth": 3, "rates": [0.1, 0.2]}})
    make_chapter(tmp_path, published=study)
    with pytest.raises(SettingError, match=message):
        make_chapter(tmp_path, published=study, **ours)


def test_a_list_that_is_not_the_published_studys_is_named_too(tmp_path):
    study = publish(tmp_path, settings={"tuning": {"rates": [0.1, 0.3]}})
    with pytest.raises(SettingError, match=r"tuning\.rates=\[0\.1, 0\.2\]: .* was made with \[0\.1, 0\.3\]"):
        make_chapter(tmp_path, published=study)


def test_other_threads_and_settings_that_an_older_study_does_not_say_are_no_difference(tmp_path):
    study = publish(tmp_path, settings={"study": {"threads": 4, "device": "cuda"}, "gone": {"x": 1}})
    make_chapter(tmp_path, published=study, depth=9, study={"threads": 1, "device": "cpu"})


def test_an_unknown_study_is_an_error_that_says_how_to_do_without(tmp_path):
    with pytest.raises(files.CheckpointError, match=r"figures/nowhere'.*published 04_svd; nothing is published there"):
        Published("figures/nowhere", NAME)
    with pytest.raises(files.CheckpointError, match="An empty text makes the rows here"):
        make_chapter(tmp_path, published=tmp_path / "nowhere")


def test_a_study_without_the_chapter_is_an_error_that_lists_those_it_has(tmp_path):
    study = publish(tmp_path)
    (study / "02_distill.json").write_text("{}")
    (study / "about.json").write_text("{}")
    with pytest.raises(files.CheckpointError, match=r"published 05_int8; it has 02_distill, 04_svd\."):
        Published(study, "05_int8")


@pytest.mark.parametrize("content", ["", "{", '{"rows": [1, 2', "\x00\x01", json.dumps(WHOLE)[:-9]])
def test_a_damaged_file_is_named(tmp_path, content):
    study = publish(tmp_path)
    (study / f"{NAME}.json").write_text(content)
    with pytest.raises(files.CheckpointError, match=r"study/04_svd\.json: not valid JSON"):
        make_chapter(tmp_path, published=study)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], "chapter, which is a JSON string"),
        (3, "chapter, which is a JSON string"),
        ({k: v for k, v in WHOLE.items() if k != "claims"}, "claims, which is a JSON array"),
        (WHOLE | {"settings": []}, "settings, which is a JSON object"),
        (WHOLE | {"rows": {"a": {"b": 1}}}, "a JSON array of objects"),
        (WHOLE | {"rows": {"a": [1]}}, "a JSON array of objects"),
    ],
)
def test_a_file_that_is_no_published_chapter_is_named_with_what_one_has(tmp_path, content, expected):
    study = publish(tmp_path)
    (study / f"{NAME}.json").write_text(json.dumps(content))
    with pytest.raises(files.CheckpointError, match=rf"04_svd\.json: .*expected {expected}"):
        Published(study, NAME)


def test_rows_that_the_study_does_not_have_are_named_with_those_that_it_has(tmp_path):
    study = publish(tmp_path, rows={"spectra": [], "shares": []})
    chapter = make_chapter(tmp_path, published=study)
    with pytest.raises(files.CheckpointError, match="no rows 'spectrum': expected one of spectra, shares"):
        chapter.rows("spectrum", never)


def test_what_json_cannot_hold_is_null_and_comes_back_as_a_number_that_is_none():
    rows = plain([{"a": math.nan, "b": 1, "c": "x", "d": math.inf}, {"a": 2.0, "b": None, "c": None, "d": None}])
    assert rows[0] == {"a": None, "b": 1, "c": "x", "d": None}
    found = frame(rows)
    assert [str(found[name].dtype) for name in "abd"] == ["float64"] * 3 and found["c"][0] == "x"
    assert frame([]).empty


# -- of another study


def draw(*tables):
    figure, axis = plt.subplots()
    axis.plot([len(table) for table in tables])
    return figure


def test_figures_of_another_study_are_drawn_from_its_rows_and_say_whose_they_are(tmp_path, shown):
    about = {"data": {"name": "cifar10"}, "profile": "wide", "seeds": [3]}
    study = publish(tmp_path, about=about, rows={"a": [{"x": 1}], "b": [{"x": 1}, {"x": 2}]})
    Beside(str(study), NAME).figure("a", draw, "Two tables", "b")
    assert list(shown[0].axes[0].lines[0].get_ydata()) == [1, 2] and plt.get_fignums() == []
    assert shown[1] == f"*Two tables. {where_from(about)}*" and "cifar10" in shown[1] and "wide" in shown[1]


def test_rows_that_another_study_lacks_are_a_sentence_and_no_figure(tmp_path, shown):
    Beside(str(publish(tmp_path, rows={"a": [{"x": 1}]})), NAME).figure("a", draw, "Two tables", "b")
    Beside("figures/nowhere", NAME).figure("a", draw, "A table")
    assert shown[0].startswith("*Two tables: not in this copy of") and shown[0].endswith("study.*")
    assert shown[1:] == ["*A table: not in this copy of figures/nowhere.*"]


def test_tables_and_texts_of_another_study_say_whose_they_are_too(tmp_path, shown):
    study = Beside(str(publish(tmp_path, rows={"a": [{"x": 1.5}], "b": [{"x": 2.0}]})), NAME)
    study.table("a", lambda one, other: one + other, "Sums", "b")
    study.table("a", lambda one: f"<b>{one['x'][0]}</b>", "One")
    study.table("c", lambda rows: "", "Another")
    assert "3.50" in shown[0] and shown[1].startswith("*Sums. ") and shown[2] == "<b>1.5</b>"
    assert shown[3].startswith("*One. ") and shown[4].startswith("*Another: not in this copy of")


def test_verdicts_of_another_study_are_shown_where_it_measured_some(tmp_path, shown):
    Beside("figures/nowhere", NAME).verdicts(STAGE)
    study = publish(tmp_path)
    Beside(str(study), NAME).verdicts(STAGE)
    assert shown == []
    row = {"claim": "svd_cost", "value": 1.5, "low": -0.5, "high": 3.5, "n": 3}
    (study / f"{NAME}.json").write_text(json.dumps(WHOLE | {"claims": [row]}))
    Beside(str(study), NAME).verdicts(STAGE)
    assert shown[0] == f"*{where_from(WHOLE['about'])}*" and "SVD at Δ = 1 lowers accuracy" in shown[1]


@pytest.mark.parametrize("published", [None, 3, ["figures/digits"]])
def test_what_is_no_folder_to_be_published_in_is_named(tmp_path, published):
    with pytest.raises(SettingError, match=r"published=.*expected a folder such as figures/digits"):
        make_chapter(tmp_path, published=published)


def test_a_chapter_of_a_training_of_no_epochs_is_refused(tmp_path):
    with pytest.raises(SettingError, match=r"recipe\.epochs=0: expected at least 1"):
        make_chapter(tmp_path, recipe=Recipe(epochs=0))
