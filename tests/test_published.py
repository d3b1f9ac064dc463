"""What was published before figures/ had its present layout is published still: digests of then, held against now.

``published_before.json`` has them: of each table, claims, settings, metrics and origin of a chapter, of each row of a
node, of each study and of each file. Studies and files have other names now; each says what it was called.
"""

import csv
import hashlib
import json
from pathlib import Path

import pytest

from engine.settings import chapters
from studylib.coding import restore
from studylib.experiments.published import Figures
from studylib.tree.published import Published

FOLDER = Path(__file__).parents[1] / "figures"
BEFORE = json.loads(Path(__file__).with_name("published_before.json").read_text())
THERE = Figures(FOLDER)
NAMES = {about.get("formerly", study): study for study, about in THERE.studies.items()}
STUDIES = {former: study for former, study in NAMES.items() if former in BEFORE["studies"]}  # others have come since
FORMER_STUDIES = {study: former for former, study in STUDIES.items()}
LISTED = restore.listing(FOLDER / "models")
FORMER_FILES = {name: about["formerly"] for name, about in LISTED.items() if "formerly" in about}
ADDED = {"teacher", "formerly"}  # what studies and files say more than they did
NEW = {
    "09_survey",
    "10_gpt",
    "11_vae",
    "12_screening",
    "13_federated",
    "14_controller",
}  # chapters that are published since


def digest(value) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def as_before(value, key=""):
    """``value`` with the former names of studies and files."""
    if isinstance(value, dict):
        return {name: as_before(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [as_before(each, key) for each in value]
    if key == "profile":
        return FORMER_STUDIES[value]
    if isinstance(value, str) and value.endswith(restore.ENDING):
        path, _, name = value.rpartition("/")
        return f"{path}/{FORMER_FILES[name]}"
    return value


def without(about: dict, added=ADDED) -> dict:
    if "chapters" in about:
        about = about | {"chapters": [chapter for chapter in about["chapters"] if chapter not in NEW]}
    return as_before({name: value for name, value in about.items() if name not in added})


@pytest.mark.parametrize("name", BEFORE["chapters"])
def test_every_chapter_has_the_rows_claims_and_origin_that_it_had(name):
    former, _, chapter = name.partition("/")
    there, before = Published(FOLDER / STUDIES[former], chapter), BEFORE["chapters"][name]
    assert {table: digest(there.content["rows"][table]) for table in there.content["rows"]} == before["rows"]
    for part in ("claims", "settings", "metrics"):
        assert digest(as_before(there.content[part])) == before[part], part
    assert digest(as_before(there.about)) == before["about"]


def test_every_row_of_a_node_is_the_one_that_it_was():
    found = {}
    for former, study in STUDIES.items():
        with open(FOLDER / study / "nodes.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(THERE.nodes(study))  # as whoever makes tables reads them
        found |= {f"{former}/{row['node']}/{row['seed']}": digest(row) for row in rows}
    assert found == BEFORE["nodes"]


def test_every_study_says_of_its_origin_what_it_said():
    assert {former: digest(without(THERE.studies[study])) for former, study in STUDIES.items()} == BEFORE["studies"]
    assert all(set(about["teacher"]) == {"name", "args", "restored"} for about in THERE.studies.values())


def test_every_file_is_the_one_that_it_was_under_another_name():
    found = {}
    for name, former in FORMER_FILES.items():
        sha256 = hashlib.sha256((FOLDER / "models" / name).read_bytes()).hexdigest()
        found[former] = {"listed": digest(without(LISTED[name])), "sha256": sha256}
    assert found == BEFORE["models"]


def test_the_points_of_every_small_file_are_those_that_were_drawn():
    points = THERE.files.dropna(subset="network").astype({"bits": int})
    keys = ("study", "node", "bytes", "bits", "sparsity", "val_accuracy", "test_accuracy")
    rows = [[row[key] for key in keys] for row in json.loads(points.to_json(orient="records", double_precision=10))]
    assert digest(sorted([FORMER_STUDIES[study], *rest] for study, *rest in rows)) == BEFORE["files"]


def test_a_changed_digit_would_be_seen():
    there = Published(FOLDER / "digits", "01_teacher")
    rows = json.loads(json.dumps(there.content["rows"]["curves"]))
    number = next(name for name, value in rows[0].items() if isinstance(value, float))
    rows[0][number] += 1e-9
    assert digest(rows) != BEFORE["chapters"]["digits/01_teacher"]["rows"]["curves"]


def test_figures_holds_studies_models_and_cited_pictures_and_nothing_else():
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    index = json.loads((FOLDER / "cited" / "index.json").read_text())
    known = {"studies.json", "models/models.json", "cited/index.json"} | {f"models/{name}" for name in LISTED}
    known |= {f"cited/{name}.{suffix}" for name in index for suffix in ("png", "pdf")}
    names = [each.name for each in chapters.declared().values()]
    known |= {f"{study}/nodes.csv" for study in THERE.studies}
    known |= {f"{study}/{name}.json" for study in THERE.studies for name in names if f"{study}/{name}.json" in files}
    assert files == known


def test_every_cited_picture_names_rows_that_are_published():
    index = json.loads((FOLDER / "cited" / "index.json").read_text())
    for sources in index.values():
        assert sources
        for source in sources:
            if not source["chapter"]:
                assert source["tables"] == ["nodes"] and len(THERE.nodes(source["study"]))
                assert source["git_commit"] == THERE.studies[source["study"]]["git_commit"]
                continue
            there = Published(FOLDER / source["study"], source["chapter"])
            assert all(there.content["rows"][table] for table in source["tables"])
            assert source["git_commit"] == there.about["provenance"]["git_commit"]
