import json
import math

import pytest
from projects import copy_project, edit

from engine.run import code
from studylib.experiments import frontier_marks
from studylib.results import claims, verdicts
from studylib.results.claims import Claim, Measured
from studylib.settings import SettingError

VALUE = Claim("prune", "it saves {}", "section 1", 88.1, "%", 2.0)
ANYWHERE = Claim("prune", "it saves {}", "section 1", 88.1, "%", 2.0, anywhere=True)
COST = Claim("prune", "it costs {}", "section 1", 0.9, "points", 0.5)
REACHES = Claim("distill", "it reaches {}", "section 1", 75.0, "%", 2.0, sampled=True)
RISES = Claim("distill", "it helps", "section 1", 0.0, "points", direction="+", anywhere=True)
OTHERS = Claim("int8", "it saves {}", "the survey", 56.0, "%", elsewhere="other models")
FALLS = Claim("distill", "it hurts", "section 1", 0.0, "points", direction="-", anywhere=True)
MOSTLY = Claim("screening", "more than 80 %", "section 1", 80.0, "%", direction="+", anywhere=True)
NOTHING = Claim("moo", "{} of all steps", "section 1", 0.0, "%", anywhere=True)


@pytest.mark.parametrize(
    "claim, measured, dataset, verdict",
    [
        (VALUE, Measured(89.0), "cifar10", "reproduced"),
        (VALUE, Measured(70.0), "cifar10", "not reproduced"),
        (
            VALUE,
            Measured(70.0, 60.0, 87.0),
            "cifar10",
            "undecided: the interval holds 86.1 %, an edge of the tolerance (one seed)",
        ),
        (VALUE, Measured(70.0, 60.0, 80.0, n=3), "cifar10", "not reproduced"),
        (VALUE, Measured(70.0, 60.0, 80.0), "cifar10", "not reproduced (one seed)"),
        (
            VALUE,
            Measured(88.1, 60.0, 95.0, n=3),
            "cifar10",
            "undecided: the interval holds 86.1 % and 90.1 %, edges of the tolerance; n = 10 would decide",
        ),
        (VALUE, Measured(88.1, 87.0, 90.0, n=3), "cifar10", "reproduced"),
        (REACHES, Measured(75.0), "cifar10", "undecided: no interval"),
        (COST, Measured(1.0), "cifar10", "undecided: no interval"),
        (COST, Measured(1.0, 0.9, 1.1), "cifar10", "reproduced (one seed)"),
        (
            COST,
            Measured(1.7, 1.3, 2.1, n=3),
            "cifar10",
            "undecided: the interval holds 1.4 points, an edge of the tolerance; n = 4 would decide",
        ),
        (
            COST,  # zero is in it, too; but zero is not what it is held against
            Measured(0.3, -0.2, 0.8, n=3),
            "cifar10",
            "undecided: the interval holds 0.4 points, an edge of the tolerance; n = 19 would decide",
        ),
        (MOSTLY, Measured(81.0, 78.0, 84.0), "digits", "undecided: the interval holds 80 % (one seed)"),
        (NOTHING, Measured(0.5, 0.0, 1.0), "digits", "undecided: the interval holds 0 % (one seed)"),
        (
            RISES,
            Measured(0.001, -1.0, 1.0, n=3),
            "digits",
            "undecided: within noise; more than 1000 seeds would decide",
        ),
        (VALUE, Measured(88.1), "digits", "not comparable: digits, not CIFAR-10"),
        (VALUE, Measured(88.1), "cifar10_10k", "not comparable: cifar10_10k, not CIFAR-10"),
        (ANYWHERE, Measured(88.1), "digits", "reproduced"),
        (OTHERS, Measured(56.0), "cifar10", "not comparable: other models"),
        (VALUE, None, "cifar10", "not measured"),
        (VALUE, Measured(math.nan), "cifar10", "not measured"),
        (RISES, Measured(2.0, 1.0, 3.0, n=3), "digits", "reproduced"),
        (RISES, Measured(-2.0, -3.0, -1.0, n=3), "digits", "not reproduced"),
        (FALLS, Measured(-2.0, -3.0, -1.0, n=3), "digits", "reproduced"),
        (RISES, Measured(2.0, 1.0, 3.0), "digits", "reproduced (one seed)"),
        (RISES, Measured(2.0, -1.0, 5.0), "digits", "undecided: within noise (one seed)"),
        (RISES, Measured(2.0), "digits", "undecided: no interval"),
    ],
)
def test_verdicts(claim, measured, dataset, verdict):
    assert verdicts.verdict(claim, measured, dataset) == verdict


def test_a_table_has_every_claim_of_its_chapter_and_units():
    text = verdicts.table("int8", {"int8_saved": Measured(74.0)}, "digits")
    rows = text.splitlines()[2:]
    assert len(rows) == sum(claim.chapter == "int8" for claim in claims.CLAIMS.values())
    assert rows[0] == "| int8 alone saves 73.1 % | section 5.2 | 74.00 % | reproduced |"
    assert text.count("| – | not measured |") == len(rows) - 1
    moved = verdicts.table("sweep", {"pruned_loses_less": Measured(-1e-5, -2e-5, 1e-5, n=3)}, "digits")
    assert "| -0.00001 nats (-0.00002 to +0.00001; n = 3) | undecided: within noise; n = " in moved


def test_a_claim_of_another_chapter_is_refused():
    with pytest.raises(KeyError, match="kd_gain"):
        verdicts.table("int8", {"kd_gain": Measured(1.0)}, "digits")


def test_every_claim_can_be_shown():
    for key, claim in claims.CLAIMS.items():
        assert claim.direction in ("", "+", "-") and claim.unit in ("%", "points", claims.PLANE, "bytes", "nats"), key
        assert ("{}" in claim.says) == (not claim.direction), key


GIVEN = {"says": '"it saves {}"', "where": '"section 1"', "value": "88.1", "unit": '"%"'}


def toml(folder, key="prune.saved", **given):
    """A file of one claim: :data:`GIVEN`, and ``given``, TOML; None leaves a key out."""
    lines = [f"{name} = {value}" for name, value in (GIVEN | given).items() if value is not None]
    (folder / "claims.toml").write_text("\n".join([f"[{key}]", *lines, ""]))
    return folder / "claims.toml"


def test_claims_are_read_from_a_file(tmp_path):
    more = {"tolerance": "2.0", "nodes": "{ teacher = 1, teacher-imp = -1 }", "saved": '["teacher-imp", "bytes_csr"]'}
    (key, claim), *others = claims.read(toml(tmp_path, **more)).items()
    weights, saved = {"teacher": 1, "teacher-imp": -1}, ["teacher-imp", "bytes_csr"]
    assert claim == Claim("prune", "it saves {}", "section 1", 88.1, "%", 2.0, nodes=weights, saved=saved)
    assert key == "saved" and others == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tolerence": "2.0"}, r"claims\.toml: prune\.saved\.tolerence: unknown; did you mean 'tolerance'\?"),
        ({"where": None}, r"prune\.saved\.where: missing"),
        ({"value": '"88.1"'}, r"prune\.saved\.value='88\.1': expected a number"),
        ({"unit": '"percent"'}, r"prune\.saved\.unit='percent': expected one of '%', "),
        ({"taken": '["teacher"]'}, r"prune\.saved\.taken=\['teacher'\]: expected at least 2 of them"),
        ({"direction": '"+"'}, r"prune\.saved\.says='it saves \{\}': expected \{\} in it, unless a direction"),
        ({"key": "saved"}, r"saved\.says='it saves \{\}': expected a table"),
        ({"value": ""}, r"claims\.toml: not valid TOML \(.*line 4"),
    ],
)
def test_a_claim_that_cannot_be_read_is_named_with_its_key(tmp_path, given, message):
    with pytest.raises(SettingError, match=message):
        claims.read(toml(tmp_path, **given))


def test_an_edited_claim_runs_the_chapters_again_and_no_node(tmp_path, monkeypatch):
    project = copy_project(tmp_path / "copy")
    monkeypatch.setattr(code, "ROOT", project)
    notebook = project / "notebooks" / "04_svd.ipynb"
    chapter, node = code.digest(notebook), code.digest(notebook, lesson=False)
    edit(project / "studylib" / "results" / "claims.toml", "SVD at Δ = 1", "SVD at Δ = 2")
    assert code.digest(notebook) != chapter and code.digest(notebook, lesson=False) == node


def test_a_key_of_two_chapters_is_refused(tmp_path):
    path = toml(tmp_path)
    path.write_text(path.read_text() + path.read_text().replace("prune.", "svd."))
    with pytest.raises(SettingError, match=r"svd\.saved: .*prune\.saved; expected a key of its own"):
        claims.read(path)


def point(name, bytes_, val, test):
    return {"name": name, "bytes": bytes_, "val_accuracy": val, "test_accuracy": test}


def test_a_mark_is_held_against_the_smallest_file_that_validation_images_choose(monkeypatch):
    monkeypatch.setattr(frontier_marks, "MARKS", (frontier_marks.Mark(90.0, 1000.0, "theirs"),))
    large, small, lucky = (
        point("large", 900, 0.92, 0.91),
        point("small", 500, 0.9, 0.901),
        point("lucky", 10, 0.89, 0.95),
    )
    (row,) = frontier_marks.against_marks([large, small, lucky], "cifar10")
    assert (row["ours"], row["our kB"], row["verdict"]) == ("small", 0.5, "passed")
    assert row["our %"] == pytest.approx(90.1)

    def verdict(*points):
        return frontier_marks.against_marks(list(points), "cifar10")[0]["verdict"]

    assert verdict(large, point("unlucky", 500, 0.9, 0.899)) == "less accurate on test images"
    assert verdict(point("wide", 1001, 0.92, 0.91)) == "larger"
    assert verdict(lucky) == "not reached (validation 89.00 %)"
    assert frontier_marks.against_marks([large], "digits") == []


def test_what_was_measured_goes_to_json_and_back():
    several = [Measured(1.0, -1.0, 3.0, 3, "weighted sum"), Measured(2.0, 1.0, 3.0, 3, "another")]
    measured = {"kd_gain": [Measured(5.5, 4.0, 7.0, n=3)], "small_bytes": [Measured(math.inf)], "moo_one_shot": several}
    rows = json.loads(json.dumps(verdicts.to_json(measured | {"kd_alone": None}), allow_nan=False))
    assert verdicts.from_json(rows) | {"small_bytes": 0} == measured | {"small_bytes": 0}
    assert rows[0] == {"claim": "kd_gain", "value": 5.5, "low": 4.0, "high": 7.0, "n": 3, "unit": "points"}
    (none,) = verdicts.from_json(rows)["small_bytes"]
    assert math.isinf(none.value) and math.isnan(none.low)
    assert verdicts.from_json([rows[0] | {"claim": "no claim any more"}]) == {}


def test_a_claim_against_several_rivals_has_a_row_for_each():
    several = [Measured(1.0, -1.0, 3.0, 3, "weighted sum"), Measured(2.0, 1.0, 3.0, 3, "weighted sum, normalized")]
    rows = [row for row in verdicts.rows("moo", {"moo_one_shot": several}, "cifar10") if row["claim"] == "moo_one_shot"]
    assert [row["paper says"].partition(" (against the ")[2] for row in rows] == [
        "weighted sum)",
        "weighted sum, normalized)",
    ]
    assert [row["verdict"].partition(":")[0] for row in rows] == ["undecided", "reproduced"]
