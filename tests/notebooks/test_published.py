"""What a reader has who has the published files alone: every chapter, and nothing trained."""

import json
from pathlib import Path

import executed
import pytest
from executed import CHAPTERS, pictures_in, pictures_of, texts_in
from projects import ROOT, types_of

from studylib.tree.published import FILE, KEYS

STUDY = ROOT / "figures" / "digits"
FOLDERS = {"parent", "reuse", "run"}  # parameters that name what a chapter reads, beside those that it declares
SINCE = {"guiding", "carried"}  # settings that came later; rows that are no longer stored
ADDED = {
    "student": {"name"},
    "network": {"name"},
    "comparison": {"only"},
}  # settings that what is published does not say yet
LEFT = {"notebook.ipynb", "figures", "sweep.csv"}  # of a chapter that shows what is published


@pytest.fixture(scope="module", params=list(CHAPTERS))
def chapter(request):
    return request.param


def show(name: str, out: Path, surroundings: dict, **given) -> executed.Executed:
    """A chapter as it is published, where there is no other folder to read, and no data to download."""
    out.mkdir()
    empty = out.parent / "nothing"
    empty.mkdir(exist_ok=True)
    known = types_of(CHAPTERS[name].notebook)
    nowhere = {key: "runs/nowhere" for key in FOLDERS | set(CHAPTERS[name].reads) if key in known}
    return executed.execute(name, out, given | nowhere, surroundings | {"STUDY_DATA": str(empty)})


def content(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture
def published(tmp_path, reduced_run):
    """Gives a folder that has published the reduced run of a chapter."""

    def publish(name: str) -> Path:
        folder = tmp_path / "published"
        folder.mkdir()
        (folder / f"{name}.json").write_bytes((reduced_run(name).out / FILE).read_bytes())
        return folder

    return publish


@pytest.fixture(scope="module")
def opened(chapter, warmed, tmp_path_factory):
    """The chapter run as it stands."""
    return show(chapter, tmp_path_factory.mktemp("reader") / "out", warmed)


def test_opened_as_it_stands_it_shows_the_study_and_trains_nothing(chapter, opened):
    shown = opened.passed()
    assert shown.calls == set()
    assert {path.name for path in shown.out.iterdir()} <= LEFT
    assert not list(shown.out.rglob("*.safetensors")) and not list(shown.out.rglob("*.slnc"))
    assert pictures_in(shown.notebook) == pictures_of(CHAPTERS[chapter].notebook)


def test_opened_as_it_stands_it_says_what_is_stored_in_it(chapter, opened):
    assert texts_in(opened.passed().notebook) == texts_in(CHAPTERS[chapter].notebook)


def test_with_nothing_published_it_trains_and_leaves_what_can_be_published(chapter, reduced_run):
    made = reduced_run(chapter)
    images = set() if chapter == "10_gpt" else {"studylib.data.datasets.load"}  # it reads text
    trains = set() if chapter == "12_screening" else {"studylib.training.loop.fit"}  # reduced, it has no control
    assert made.calls == trains | images  # the watch sees what there is to see
    assert set(content(made.out, FILE)) == set(KEYS)


def test_what_it_makes_is_of_the_same_kind_as_what_is_published(chapter, reduced_run):
    made, there = content(reduced_run(chapter).out, FILE), content(STUDY, f"{chapter}.json")
    assert made["chapter"] == there["chapter"] == chapter
    for kind in ("rows", "settings", "metrics"):
        assert set(made[kind]) - SINCE == set(there[kind]) - SINCE, kind
    assert "carried" not in made["rows"]
    for name, record in made["settings"].items():
        if name not in there["settings"]:
            continue
        added = set(record) - set(there["settings"][name])
        assert added <= ADDED.get(name, set()) and len(record) == len(there["settings"][name]) + len(added), name
    for name, rows in made["rows"].items():
        if rows and there["rows"][name]:
            assert list(rows[0]) == list(there["rows"][name][0]), name
    assert {claim["claim"] for claim in made["claims"]} <= {claim["claim"] for claim in there["claims"]}


def test_what_it_made_itself_it_shows_as_published_without_training(warmed, published, tmp_path):
    name = "02_distill"
    given = executed.REDUCED[name] | {"published": str(published(name))}
    shown = show(name, tmp_path / "out", warmed, **given).passed()
    assert shown.calls == set() and pictures_in(shown.notebook) == pictures_of(CHAPTERS[name].notebook)


def test_a_setting_that_is_not_the_published_studys_is_an_error_that_names_both_values(warmed, published, tmp_path):
    name = "02_distill"
    given = executed.REDUCED[name] | {"published": str(published(name))}
    given["recipe"] = given["recipe"] | {"epochs": 7}
    shown = show(name, tmp_path / "out", warmed, **given)
    assert shown.done.returncode and shown.calls == set()
    assert f"recipe.epochs=7: {tmp_path / 'published'} was made with 2; expected that, or published=''" in (
        shown.done.stdout + shown.done.stderr
    )


@pytest.mark.parametrize("folder", ["figures/nowhere", "figures/small_files-whitened"])
def test_a_study_that_is_not_there_or_lacks_the_chapter_is_an_error_that_says_so(folder, warmed, tmp_path):
    shown = show("02_distill", tmp_path / "out", warmed, published=folder)
    said = shown.done.stdout + shown.done.stderr
    assert shown.done.returncode and shown.calls == set()
    assert f"published='{folder}': expected a study that has published 02_distill; " in said
    assert ("it has 08_frontier" if "whitened" in folder else "nothing is published there") in said
