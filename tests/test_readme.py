import json
import math
import shutil

import pandas as pd
import pytest

from engine.publish import naming, readme, verdicts
from engine.settings.reading import FOLDER
from studylib.results import claims
from studylib.results import verdicts as judged
from studylib.tree import table as tree_table

NODES = [("teacher", 0.92, 0.915, 900_000), ("teacher-kd", 0.85, 0.84, 500_000), ("teacher-int8", 0.92, 0.914, 60_000)]
POINT = {"network": "teacher", "bits": 4, "sparsity": 0.95, "val_accuracy_pruned": 0.917}
POINTS = [
    {**POINT, "name": "teacher-950-4bit", "bytes": 11_000, "val_accuracy": 0.91, "test_accuracy": 0.905},
    {
        **POINT,
        "name": "student-950-4bit",
        "network": "student",
        "bytes": 9_000,
        "val_accuracy": 0.8,
        "test_accuracy": 0.8,
    },
]


def publish(study, chapter, claimed=None, **tables):
    """Writes a chapter as a study has published it; ``claimed``: claim → what was measured."""
    content = {"chapter": chapter, "about": {}, "settings": {}, "metrics": {}, "rows": tables}
    content["claims"] = judged.to_json(claimed or {})
    study.mkdir(exist_ok=True)
    (study / f"{chapter}.json").write_text(json.dumps(content))


@pytest.fixture
def published(tmp_path):
    """A folder as figures/, with one profile on CIFAR-10 and one on the digits."""
    rows = []
    for profile, dataset in (("mine", "cifar10"), ("easy", "digits")):
        (tmp_path / profile).mkdir()
        about = {
            "data": {"name": dataset, "test": 10_000},
            "seeds": [0],
            "nodes": [node for node, *_ in NODES],
            "chapters": [],
        }
        (tmp_path / profile / "about.json").write_text(json.dumps(about))
        none = {"small_bytes": claims.Measured(math.inf)}
        publish(tmp_path / profile, "08_frontier", none, frontier=POINTS)
        names = ["node", "val_accuracy", "test_accuracy", "bytes_file"]
        for seed in (0, 1):  # of the second, nothing is to be seen
            rows += [dict(zip(names, row, strict=True)) | {"seed": seed, "profile": profile} for row in NODES]
    table = pd.DataFrame(rows)
    table = table.assign(bytes_dense=table["bytes_file"], bytes_nonzero=table["bytes_file"], agreement=1.0)
    table.loc[table["node"] != "teacher", "agreement"] = 0.9
    table.to_csv(tmp_path / "results.csv", index=False)
    return tmp_path


def lines(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_what_is_not_published_is_said_not_to_have_been_run(tmp_path):
    (tmp_path / "digits").mkdir()
    about = {"seeds": [0, 2], "nodes": ["teacher", "teacher-kd"], "chapters": ["02_distill"]}
    (tmp_path / "digits" / "about.json").write_text(json.dumps(about))
    rows = {line.split("|")[1].strip(): line for line in readme.runs_table(tmp_path).splitlines()[2:]}
    every = {path.stem for path in FOLDER.glob("*.yaml")} - {"chapters"}
    roots = {"cifar10-moo", "digits-moo", "paper-moo", "smoke-moo"}
    assert set(rows) == every | roots and "| 0 of 16 | – | – | – | – |" in rows["cifar10-moo"]
    assert "| 2 of 16 | 0, 2 | 02 | – | 01, 03, 04, 05, 06, 07, 08 |" in rows["digits"]
    assert "| 0 of 16 | – | – | – | 01, 02, 03, 04, 05, 06, 07, 08 |" in rows["paper"]
    publish(tmp_path / "digits", "05_int8")
    assert "| 02 | 05 | 01, 03, 04, 06, 07, 08 |" in readme.runs_table(tmp_path)


def test_a_mark_stands_beside_the_smallest_file_of_any_cifar_10_profile(published):
    rows = {float(row[0]): row for row in lines(readme.marks_table(published))}
    assert rows[91.5][3:7] == ["mine-teacher-int8", "60.00", "91.40", "less accurate on test images"]
    assert rows[90.0][3:7] == ["mine-teacher-950-4bit", "11.00", "90.50", "passed"]
    assert rows[91.65][3:7] == ["mine-teacher-int8", "60.00", "91.40", "less accurate on test images"]
    every = readme.files(published)
    for mark, row in rows.items():  # beside it, what the test images would have chosen
        enough = every[100 * every["test_accuracy"] >= mark - 1e-9]
        least = enough["bytes"].min() / 1000 if len(enough) else None
        assert row[7].split(" (")[0] == (f"{least:.2f} kB" if least else "–")
    assert rows[90.0][7] == "11.00 kB (`mine-teacher-950-4bit`)" and rows[91.65][7] == "–"


def test_a_mark_that_no_file_holds_has_none_beside_it(published):
    (published / "mine" / "08_frontier.json").unlink()
    table = pd.read_csv(published / "results.csv")
    table.assign(val_accuracy=0.89).to_csv(published / "results.csv", index=False)
    assert all(
        row[3:7] == ["–", "–", "–", "not reached (validation 89.00 %)"]
        for row in lines(readme.marks_table(published))[:2]
    )


def test_goals_name_the_network_that_comes_nearest(published):
    rows = lines(readme.goals_table(published))
    assert rows[0][3:] == ["91.50 % (`mine-teacher`)", "passed"]
    assert rows[1][3:] == ["84.00 % (`mine-teacher-kd`)", "not reached"]
    assert rows[2][3:] == ["0.30 points (`mine-teacher-950-4bit`)", "passed"]
    assert rows[3][2:] == ["the paper", "–", "not measured"] and len(rows) == 4
    for profile in ("mine", "easy"):  # on CIFAR-10, and on the digits
        publish(published / profile, "02_distill", {"kd_gain": claims.Measured(4.0, 3.5, 4.5, n=2)})
    assert lines(readme.goals_table(published))[3:] == [
        [
            "gain from distillation",
            "+5 points",
            "the paper",
            "+4.00 points (+3.50 to +4.50; n = 2) (`mine`)",
            claims.REPRODUCED,
        ]
    ]


def test_a_vgg_is_no_densenet_among_the_goals(published, monkeypatch):
    monkeypatch.setattr(naming, "teacher_kind", lambda profile: "VGG")
    rows = lines(readme.goals_table(published))
    assert [row[0] for row in rows][:2] == ["teacher, a VGG, test accuracy", "distilled student, test accuracy"]
    assert len(rows) == 3


def test_a_network_that_was_not_trained_here_reaches_no_goal_of_training(published, monkeypatch):
    monkeypatch.setattr(naming, "teacher_kind", lambda profile: naming.RESTORED)
    assert not [row for row in lines(readme.goals_table(published)) if row[0].startswith(("teacher", "DenseNet"))]
    assert [row[0] for row in lines(verdicts.claims_table(published))] == ["08"]


def test_what_network_the_teacher_of_a_profile_is():
    kinds = {
        "restored_cpu": naming.RESTORED,
        "frontier_cpu": "VGG",
        "whitened_cpu": "whitened VGG",
        "cifar10": "DenseNet",
        "no_such": "DenseNet",
    }
    assert {profile: naming.teacher_kind(profile) for profile in kinds} == kinds


def test_networks_of_several_profiles_have_names_that_a_reader_knows():
    names = {
        ("cifar10", "teacher"): "DenseNet-22 (cifar10)",
        ("cifar10", "student"): "its student (cifar10)",
        ("cifar10", "growth 6"): "DenseNet, 6 channels a layer (cifar10)",
        ("cifar10", "width 16"): "ConvNet of width 16 (cifar10)",
        ("whitened_cpu", "teacher"): "whitened VGG of width 48 (whitened_cpu)",
        ("restored_cpu", "teacher"): "DenseNet-22, trained on",
        ("restored_longer_cpu", "teacher"): "DenseNet-22, trained on",
        ("frontier", "vgg 12"): "VGG 12 (frontier)",
        ("no_such", "teacher"): "DenseNet (no_such)",
    }
    assert {pair: naming.network_name(*pair) for pair in names} == names


def test_what_a_chapter_has_not_said_the_nodes_say(published):
    rows = lines(verdicts.claims_table(published))
    assert [row[0] for row in rows] == [*(f"{n}, by its nodes" for n in ("01", "01", "02", "05", "05", "05")), "08"]
    by_claim = {row[1]: row[3] for row in rows}
    assert by_claim["DenseNet reaches 92.8 %"].startswith("91.50 % (90.9")
    assert by_claim["it costs 0.3 points of accuracy"].startswith("+0.10 points (-")
    publish(published / "mine", "01_teacher", {"teacher_accuracy": claims.Measured(90.0, 89.0, 91.0)})
    rows = lines(verdicts.claims_table(published))
    assert [row[0] for row in rows] == ["01", *(f"{n}, by its nodes" for n in ("01", "02", "05", "05", "05")), "08"]
    assert rows[0][3] == "90.00 % (89.00 to 91.00)"


def test_a_claim_against_two_rivals_is_judged_against_each(published):
    one_shot = [
        claims.Measured(-1.0, -3.0, 1.0, 3, "weighted sum"),
        claims.Measured(-4.0, -5.0, -3.0, 3, "weighted sum, normalized"),
    ]
    publish(published / "mine", "06_moo", {"moo_one_shot": one_shot})
    found = [row[1:5] for row in lines(verdicts.claims_table(published)) if row[0] in ("06", "08")]
    says = judged.statement(claims.CLAIMS["moo_one_shot"])
    gains = {row[0]: row[2:] for row in found}
    undecided, worse = (gains[f"{says} (against the {m.against})"] for m in one_shot)
    assert undecided == [
        "-1.00 points of the plane (-3.00 to +1.00; n = 3)",
        "undecided: within noise; n = 5 would decide",
    ]
    assert worse == ["-4.00 points of the plane (-5.00 to -3.00; n = 3)", claims.CONTRADICTED]
    small = judged.statement(claims.CLAIMS["small_bytes"])
    assert gains[small] == ["none does", claims.CONTRADICTED]


def test_the_first_screen_takes_its_numbers_from_what_is_published(published):
    screen = "profile: mine\nheld: 0.9\nnodes: {teacher: a network, teacher-int8: int8, teacher-svd: not there}\n"
    screen += 'findings: ["saves {saved[teacher-int8]:.1f} %, {cost[teacher-int8]:.2f} points", "{worst[kd_gain]}"]\n'
    (published / readme.FIRST_SCREEN).write_text(screen)
    rows = lines(readme.glance_table(published))
    assert [row[:2] for row in rows[:2]] == [["a network", "900.00"], ["int8", "60.00"]]
    assert rows[2] == ["smallest file with 90 % on validation images", "11.00", "90.50"] and len(rows) == 3
    assert readme.findings(published) == "No findings yet: kd_gain is not published."
    publish(published / "mine", "02_distill", {"kd_gain": claims.Measured(4.0, 3.5, 4.5, n=2)})
    found = readme.findings(published).splitlines()
    assert found == ["- saves 93.3 %, 0.10 points", "- +4.00 points (+3.50 to +4.50; n = 2), reproduced"]
    (published / readme.FIRST_SCREEN).write_text(screen.replace("profile: mine", "profile: absent"))
    assert readme.findings(published).startswith("No findings yet")


def test_combinations_are_counted_beside_narrower_networks_of_their_bytes(published):
    assert "not published yet" in readme.margins_text(published)
    made = {"kind": "combination", "growth": None, "bytes": None, "accuracy": None}
    nodes = [
        ("teacher", 0.9, 100.0),
        ("teacher-kd", 0.7, 100.0),
        ("teacher-imp", 0.9, 1.0),
        ("teacher-svd", 0.74, 40.0),
    ]
    rows = [made | {"node": node, "test_accuracy": accuracy, "bytes_file": size} for node, accuracy, size in nodes]
    control = {"kind": "int8", "node": None, "test_accuracy": None, "bytes_file": None}
    rows += [control | {"growth": g, "bytes": b, "accuracy": a} for g, b, a in ((1.0, 10.0, 0.7), (2.0, 100.0, 0.8))]
    rows += [made | {"node": "teacher-int8", "test_accuracy": 0.95, "bytes_file": 101.0}]
    publish(published / "digits", "07_sweep", control=rows)
    text = readme.margins_text(published)
    assert "`digits`, 5 combinations, 2 narrower networks in floats and int8, by means: " in text
    assert (
        "1 above (teacher), 2 below (distillation; SVD), 1 larger than every narrower network, beside none (int8)"
        in text
    )
    assert text.endswith("1 smaller than every narrower network (pruning).")
    verdicts_of = [{"node": "teacher", "verdict": "cannot tell"}, {"node": "teacher-imp", "verdict": "is beaten"}]
    publish(published / "digits", "07_sweep", control=rows, margins=verdicts_of)
    by_seeds = "2 combinations, by intervals over seeds: 1 “cannot tell” (teacher), 1 “is beaten” (pruning)."
    assert readme.margins_text(published).endswith(by_seeds)


def test_what_is_said_of_the_papers_own_network_is_held_against_no_other(published):
    assert naming.another_network("mine") == "" == naming.another_network("paper")
    assert naming.another_network("cifar10") == "DenseNet-22 and its student"
    assert naming.another_network("frontier_cpu").startswith("VGG of width")
    assert naming.another_network("distilled_cpu") == "DenseNet-22 and its student"  # by a file
    for path in (published / "mine").glob("*"):
        (published / "cifar10").mkdir(exist_ok=True)
        (published / "cifar10" / path.name).write_text(path.read_text())
    rows = (published / "results.csv").read_text().replace("mine", "cifar10")
    (published / "results.csv").write_text(rows)
    found = {row[1]: row[4] for row in lines(verdicts.claims_table(published)) if row[5] == "cifar10"}
    assert found["DenseNet reaches 92.8 %"].startswith("not comparable")
    assert found["int8 alone saves 73.1 %"] == claims.CONTRADICTED


def test_the_readme_is_what_make_figures_would_write(monkeypatch):
    text, found = (readme.ROOT / "README.md").read_text(), {}
    monkeypatch.setattr(readme, "write_between", found.__setitem__)
    for profile in readme.TABLES:
        rows = pd.read_csv(readme.ROOT / "figures" / verdicts.RESULTS_FILE).query("profile == @profile")
        about = json.loads((readme.ROOT / "figures" / profile / "about.json").read_text())
        readme.write(tree_table.summary(rows.drop(columns="profile")), about)
    assert len(found) >= 6
    for name, content in found.items():
        assert f"<!-- {name}: made by make figures -->\n\n{content}\n\n<!-- end of {name} -->" in text, name


def test_what_the_nodes_say_is_by_the_counts_that_the_paper_has():
    nodes = {
        "teacher": (0.92, 4000, 4000, 1.0),
        "teacher-imp": (0.91, 4000, 400, 0.95),
        "teacher-int8": (0.915, 1000, 990, 0.99),
        "teacher-imp-int8": (0.9, 1000, 100, 0.94),
    }
    columns = ["test_accuracy", "bytes_dense", "bytes_nonzero", "agreement"]
    table = pd.DataFrame.from_dict(nodes, orient="index", columns=columns)
    said = judged.of_nodes(table, 10_000)
    assert "kd_taught" not in said and "svd_worst" not in said
    assert said["int8_saved"].value == pytest.approx(75) and said["int8_cost"].value == pytest.approx(0.5)
    assert said["best_saved"].value == pytest.approx(97.5) and said["best_bytes"].value == 100
    assert said["pruning_helps_int8"].value == pytest.approx(-0.5)
    assert said["imp_saved"].value == pytest.approx(90)

    def half(measured):
        assert measured.high - measured.value == pytest.approx(measured.value - measured.low)
        return measured.high - measured.value

    lost = said["imp_cost"]  # one in twenty images tells them apart: 3 % lost, 2 % won
    assert lost.value == pytest.approx(1.0)
    assert half(lost) == pytest.approx(196 * ((0.05 - 0.01**2) / 10_000) ** 0.5, rel=1e-3)
    spread = sum(accuracy * (1 - accuracy) for accuracy, *_ in nodes.values())
    assert half(said["pruning_helps_int8"]) == pytest.approx(196 * (spread / 10_000) ** 0.5, rel=1e-3)


def test_nodes_put_an_interval_behind_a_difference_that_a_chapter_printed_without(published):
    nodes = published / verdicts.RESULTS_FILE
    table = pd.read_csv(nodes)
    pruned = table[table["profile"].eq("mine") & table["node"].eq("teacher")].assign(node="teacher-imp")
    pruned["test_accuracy"] -= 0.0173
    pruned["agreement"] = 0.91
    pd.concat([table, pruned]).to_csv(nodes, index=False)
    says = {key: judged.statement(claims.CLAIMS[key]) for key in ("imp_saved", "imp_cost")}

    def table_of(cost):
        measured = {"imp_saved": claims.Measured(89.82), "imp_cost": claims.Measured(cost)}
        publish(published / "mine", "03_prune", measured)
        return {row[1]: row for row in lines(verdicts.claims_table(published)) if row[0].startswith("03")}

    found = table_of(1.73)
    assert found[says["imp_cost"]][0] == "03, interval by its nodes"
    assert found[says["imp_cost"]][3].startswith("+1.73 points (+1.1")  # of the images on which they disagree
    assert found[says["imp_cost"]][4] == "undecided: within noise (one seed)"
    assert found[says["imp_saved"]][:1] + found[says["imp_saved"]][3:5] == ["03", "89.82 %", "reproduced"]
    other = table_of(1.70)[says["imp_cost"]]  # of another run
    assert other[:1] + other[3:5] == ["03", "+1.70 points", "undecided: no interval"]


def test_what_several_profiles_found_alike_is_one_row(published):
    shutil.copytree(published / "mine", published / "yours")
    table = pd.read_csv(published / verdicts.RESULTS_FILE)
    pd.concat([table, table[table["profile"].eq("mine")].assign(profile="yours")]).to_csv(
        published / verdicts.RESULTS_FILE, index=False
    )
    last = lines(verdicts.claims_table(published))[-1]
    assert (last[0], last[-1]) == ("08", "mine, yours")


def test_what_is_not_measured_yet_is_said(tmp_path):
    assert "Not measured yet" in readme.marks_table(tmp_path) and "Not measured yet" in readme.goals_table(tmp_path)
    assert "No chapter" in verdicts.claims_table(tmp_path)


def test_the_readme_keeps_what_is_outside_the_markers(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    begin, end = "<!-- marks: made by make figures -->", "<!-- end of marks -->"
    (tmp_path / "README.md").write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    readme.write_between("marks", "new")
    assert (tmp_path / "README.md").read_text() == f"before\n{begin}\n\nnew\n\n{end}\nafter\n"
    with pytest.raises(SystemExit, match="markers"):
        readme.write_between("results of digits", "new")
