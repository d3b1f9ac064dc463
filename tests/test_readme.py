import itertools
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest

from engine.publish import pages
from engine.settings import parameters
from engine.settings.reading import FOLDER, ROOT
from studylib.experiments import across_studies, findings, frontier_published, moo_ways, survey
from studylib.experiments.published import Figures
from studylib.results import claims, statistics
from studylib.results import verdicts as judged

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
    """A folder as figures/, with one study on CIFAR-10 and one on the digits."""
    studies = {}
    for study, dataset in (("mine", "cifar10"), ("easy", "digits")):
        nodes = [node for node, *_ in NODES]
        studies[study] = {"data": {"name": dataset, "test": 10_000}, "seeds": [0], "nodes": nodes, "chapters": []}
        publish(tmp_path / study, "08_frontier", {"small_bytes": claims.Measured(math.inf)}, frontier=POINTS)
        table = pd.DataFrame(NODES, columns=["node", "val_accuracy", "test_accuracy", "bytes_file"])
        table = table.assign(bytes_dense=table["bytes_file"], bytes_nonzero=table["bytes_file"], agreement=1.0)
        table.loc[table["node"] != "teacher", "agreement"] = 0.9
        pd.concat([table.assign(seed=seed) for seed in (0, 1)]).to_csv(tmp_path / study / "nodes.csv", index=False)
    (tmp_path / "studies.json").write_text(json.dumps(studies))
    return tmp_path


def edit(folder, study, **about):
    """Has a study of ``folder`` say more, or other, of itself."""
    studies = json.loads((folder / "studies.json").read_text()) if (folder / "studies.json").exists() else {}
    studies[study] = studies.get(study, {"data": {"name": "cifar10", "test": 10_000}}) | about
    (folder / "studies.json").write_text(json.dumps(studies))


def lines(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_what_is_not_published_is_said_not_to_have_been_run(tmp_path):
    edit(tmp_path, "digits", seeds=[0, 2], nodes=["teacher", "teacher-kd"], chapters=["02_distill"])
    rows = {line.split("|")[1].strip(): line for line in pages.runs_table(Figures(tmp_path)).splitlines()[2:]}
    profiles = {path.stem for path in FOLDER.glob("*.yaml")} - {"chapters"}
    variants = {f"{profile}-{variant}" for profile in profiles for variant in parameters.variants(profile)}
    assert set(rows) == profiles | variants and variants
    assert "| 2 of 16 | 0, 2 | 02 | – | 01, 03, 04, 05, 06, 07, 08, 09, 10, 11, 12, 14 |" in rows["digits"]
    assert "| 0 of 16 | – | – | – | 01, 02, 03, 04, 05, 06, 07, 08, 09, 10, 11, 12, 14 |" in rows["paper"]
    publish(tmp_path / "digits", "05_int8", rows=[{"a": 1}])
    assert "| 02 | 05 | 01, 03, 04, 06, 07, 08, 09, 10, 11, 12, 14 |" in pages.runs_table(Figures(tmp_path))


def test_a_mark_stands_beside_the_smallest_file_of_any_cifar_10_profile(published):
    rows = {float(row[0]): row for row in lines(pages.marks_table(Figures(published)))}
    assert rows[91.5][3:7] == ["mine/teacher-int8", "60.00", "91.40", "less accurate on test images"]
    assert rows[90.0][3:7] == ["mine/teacher-950-4bit", "11.00", "90.50", "passed"]
    assert rows[91.65][3:7] == ["mine/teacher-int8", "60.00", "91.40", "less accurate on test images"]
    every = Figures(published).files
    for mark, row in rows.items():  # beside it, what the test images would have chosen
        enough = every[100 * every["test_accuracy"] >= mark - 1e-9]
        least = enough["bytes"].min() / 1000 if len(enough) else None
        assert row[7].split(" (")[0] == (f"{least:.2f} kB" if least else "–")
    assert rows[90.0][7] == "11.00 kB (`mine/teacher-950-4bit`)" and rows[91.65][7] == "–"


def test_a_mark_that_no_file_holds_has_none_beside_it(published):
    (published / "mine" / "08_frontier.json").unlink()
    nodes = published / "mine" / "nodes.csv"
    pd.read_csv(nodes).assign(val_accuracy=0.89).to_csv(nodes, index=False)
    assert all(
        row[3:7] == ["–", "–", "–", "not reached (validation 89.00 %)"]
        for row in lines(pages.marks_table(Figures(published)))[:2]
    )


def test_goals_name_the_network_that_comes_nearest(published):
    rows = lines(pages.goals_table(Figures(published)))
    assert rows[0][3:] == ["91.50 % (`mine/teacher`)", "passed"]
    assert rows[1][3:] == ["84.00 % (`mine/teacher-kd`)", "not reached"]
    assert rows[2][3:] == ["0.30 points (`mine/teacher-950-4bit`)", "passed"]
    assert rows[3][2:] == ["the paper", "–", "not measured"] and len(rows) == 4
    for profile in ("mine", "easy"):  # on CIFAR-10, and on the digits
        publish(published / profile, "02_distill", {"kd_gain": claims.Measured(4.0, 3.5, 4.5, n=2)})
    assert lines(pages.goals_table(Figures(published)))[3:] == [
        [
            "gain from distillation",
            "+5 points",
            "the paper",
            "+4.00 points (+3.50 to +4.50; n = 2) (`mine`)",
            claims.REPRODUCED,
        ]
    ]


VGG = {"name": "vgg", "args": {"width": 20}, "restored": False}


def test_a_vgg_is_no_densenet_among_the_goals(published):
    edit(published, "mine", teacher=VGG)
    rows = lines(pages.goals_table(Figures(published)))
    assert [row[0] for row in rows][:2] == ["teacher, a VGG, test accuracy", "distilled student, test accuracy"]
    assert len(rows) == 3


def test_a_network_that_was_not_trained_here_reaches_no_goal_of_training(published):
    edit(published, "mine", teacher=VGG | {"restored": True})
    rows = lines(pages.goals_table(Figures(published)))
    assert not [row for row in rows if row[0].startswith(("teacher", "DenseNet"))]
    assert [row[0] for row in lines(pages.claims_table(Figures(published)))] == ["08"]


def test_what_network_the_teacher_of_a_study_is_its_own_words_say():
    studies = Figures(ROOT / "figures").studies | {"silent": {}}
    kinds = {
        "small_files-densenet": frontier_published.RESTORED,
        "small_files-vgg": "VGG",
        "small_files-whitened": "whitened VGG",
        "cifar10": "DenseNet",
        "silent": "DenseNet",
    }
    assert {study: frontier_published.teacher_kind(studies[study]) for study in kinds} == kinds


def test_networks_of_several_studies_have_names_that_a_reader_knows():
    studies = Figures(ROOT / "figures").studies | {"silent": {}}
    names = {
        ("cifar10", "teacher"): "DenseNet-22 (cifar10)",
        ("cifar10", "student"): "its student (cifar10)",
        ("cifar10", "growth 6"): "DenseNet, 6 channels a layer (cifar10)",
        ("cifar10", "width 16"): "ConvNet of width 16 (cifar10)",
        ("small_files-whitened", "teacher"): "whitened VGG of width 48 (small_files-whitened)",
        ("small_files-densenet", "teacher"): "DenseNet-22, trained on",
        ("small_files-three_teachers", "teacher"): "DenseNet-22, trained on",
        ("digits", "vgg 12"): "VGG 12 (digits)",
        ("silent", "teacher"): "DenseNet (silent)",
    }
    assert {pair: frontier_published.network_name(pair[0], studies[pair[0]], pair[1]) for pair in names} == names


def test_what_a_chapter_has_not_said_the_nodes_say(published):
    rows = lines(pages.claims_table(Figures(published)))
    assert [row[0] for row in rows] == [*(f"{n}, by its nodes" for n in ("01", "01", "02", "05", "05", "05")), "08"]
    by_claim = {row[1]: row[3] for row in rows}
    assert by_claim["DenseNet reaches 92.8 %"].startswith("91.50 % (90.9")
    assert by_claim["it costs 0.3 points of accuracy"].startswith("+0.10 points (-")
    publish(published / "mine", "01_teacher", {"teacher_accuracy": claims.Measured(90.0, 89.0, 91.0)})
    rows = lines(pages.claims_table(Figures(published)))
    assert [row[0] for row in rows] == ["01", *(f"{n}, by its nodes" for n in ("01", "02", "05", "05", "05")), "08"]
    assert rows[0][3] == "90.00 % (89.00 to 91.00)"


def test_a_claim_against_two_rivals_is_judged_against_each(published):
    one_shot = [
        claims.Measured(-1.0, -3.0, 1.0, 3, "weighted sum"),
        claims.Measured(-4.0, -5.0, -3.0, 3, "weighted sum, normalized"),
    ]
    publish(published / "mine", "06_moo", {"moo_one_shot": one_shot})
    found = [row[1:5] for row in lines(pages.claims_table(Figures(published))) if row[0] in ("06", "08")]
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


def test_the_first_screen_takes_its_numbers_from_what_is_published(published, monkeypatch):
    monkeypatch.setattr(pages, "FIRST", "mine")
    rows = lines(pages.first_screen("glance", Figures(published)))
    assert [row[:2] for row in rows] == [
        ["DenseNet-22", "900.00"],
        ["student, distilled", "500.00"],
        ["int8", "60.00"],
        ["smallest file with 85 % on validation images, `mine/teacher-950-4bit`", "11.00"],
        ["smallest file with 90 % on validation images, `mine/teacher-950-4bit`", "11.00"],
    ]
    assert pages.first_screen("findings", Figures(published)).startswith("Nothing yet: not all is published")
    more = [("teacher-imp", 100_000), ("teacher-imp-int8", 45_000), ("teacher-kd-imp", 9_000)]
    nodes = pd.read_csv(published / "mine" / "nodes.csv")
    teacher = nodes[nodes["node"] == "teacher"]
    made = [teacher.assign(node=node, bytes_file=size, test_accuracy=0.9) for node, size in more]
    made.append(made[-1].assign(node="teacher-kd-imp-svd", bytes_file=20_000))
    pd.concat([nodes, *made]).to_csv(published / "mine" / "nodes.csv", index=False)
    found = pages.first_screen("findings", Figures(published)).splitlines()
    assert found[:3] == [
        "- Pruning + int8 saves 95.0 % of the file and costs 1.5 points of accuracy (CIFAR-10, one seed).",
        "- int8 alone saves 93.3 % and changes accuracy by -0.10 points (CIFAR-10, one seed).",
        "- SVD undoes pruning in the student: its file goes from 9 to 20 kB, its accuracy from 90.0 to 90.0 % "
        "(CIFAR-10, one seed).",
    ]
    assert len(found) == 4 and "*Hypervolume*" in found[3]  # no chapter is published
    edit(published, "mine", seeds=[0, 1])
    assert "costs 1.5 points of accuracy (CIFAR-10, n = 2)." in pages.first_screen("findings", Figures(published))
    monkeypatch.setattr(pages, "FIRST", "absent")
    assert pages.first_screen("findings", Figures(published)).startswith("Nothing yet")


def test_a_finding_of_each_chapter_has_its_data_and_seeds_and_its_word_by_the_interval(published):
    there = Figures(published)
    assert [each(there) for each in (findings.standard, findings.screening, findings.controller)] == [None, "", ""]
    assert findings.survey(there) is findings.generative(there, "vae") is None
    assert findings.federated(there) is None
    rivals = [("weighted sum", 1.0, -3.0, 5.0), ("weighted sum, normalized", -4.0, -5.0, -3.0)]
    one_shot = [claims.Measured(*numbers, 3, rival) for rival, *numbers in rivals]
    publish(published / "mine", "06_moo", {"moo_one_shot": one_shot})
    said = "-4.00 points of hypervolume (-5.00 to -3.00; CIFAR-10, n = 3)"
    assert findings.common(there, "mine") == {"said": said, "word": "worse"}
    edit(published, "digits", data={"name": "digits"}, seeds=[0])
    wins = [claims.Measured(-9.0, -10.0, -8.0, 5, "uniform"), claims.Measured(1.0, -1.0, 3.0, 5, "narrow")]
    publish(published / "digits", "14_controller", {"controller_more": wins})
    saved = claims.Measured(70.0, 60.0, 80.0, 7)
    publish(published / "digits", "12_screening", {"bytes_strict": saved})
    helps = [claims.Measured(2.0, low, 3.0, 4, f"same at {low}") for low in (-1.0, 1.0, 1.5)]
    publish(published / "digits", "13_federated", {"federated_helps": helps})
    there = Figures(published)
    assert findings.controller(there) == "+1.00 points (-1.00 to +3.00; digits, n = 5)"
    assert findings.screening(there) == "70.00 % (60.00 to 80.00; n = 7 pairs of problem and λ)"
    assert findings.federated(there) == {"all": 3, "more": 2, "origin": "digits, n = 4"}
    nodes = [("teacher", 100, 2.0), ("teacher-int8", 25, 2.02)]
    rows = [{"seed": s, "node": node, "bytes": size, "test_bits": bits} for s in (0, 1) for node, size, bits in nodes]
    rows += [{"seed": s, "node": "teacher-imp", "bytes": 50, "test_bits": 2.0 + s / 100} for s in (0, 1)]
    sizes = [{"seed": s, "form": "int8", "bytes": size} for s in (0, 1) for size in (20, 200)]
    none, one = ([row | {"test_bits": bits} for row in sizes] for bits in (1.9, 2.2))
    publish(published / "digits", "10_gpt", combinations=rows[:2], narrower=one[:2])
    publish(published / "digits", "11_vae", combinations=rows, narrower=one)
    said = {"saved": pytest.approx(75), "more": pytest.approx(1), "beat": "1 combination beats a narrower network"}
    assert findings.generative(there, "vae") == said | {"origin": "digits, n = 2"}
    said["beat"] = "no combination beats a narrower network"
    assert findings.generative(there, "gpt") == said | {"origin": "digits, one seed"}
    publish(published / "digits", "11_vae", combinations=rows, narrower=none)
    assert findings.generative(Figures(published), "vae") == said | {"origin": "digits, n = 2"}


def test_standard_networks_are_counted_by_what_each_comparison_says(published):
    sums = itertools.product(moo_ways.RIVALS, repeat=2)
    rows = [{"way": way, "rival": rival, "verdict": "–", "seeds": 3} for way, rival in sums]
    ours = [{"way": moo_ways.METHOD, "rival": rival, "seeds": 3} for rival in moo_ways.RIVALS]
    for study, words in (("one", ("more", "less")), ("two", ("more", "cannot tell"))):
        edit(published, study, data={"name": "cifar10_10k"}, seeds=[0])
        judged_so = [row | {"verdict": word} for row, word in zip(ours, words, strict=True)]
        publish(published / study, "06_moo", hypervolume=rows + judged_so)
        file = published / study / "06_moo.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"settings": {"network": {"name": "resnet 20-16"}}}))
    assert findings.standard(Figures(published)) == {
        **{"networks": 2, "all": 4, "more": 2, "less": 1},
        "origin": "10,000 images of CIFAR-10, n = 3",
    }


def test_techniques_of_the_survey_are_counted_by_network(published):
    edit(published, "digits", data={"name": "digits"}, seeds=[0, 1])
    whole = {"form": "float32", "before": 0.9, "multiply_adds": 1, "latency_ms": 1.0, "joules": None, "co2_mg": None}
    made = []
    for seed in (0, 1):
        for network, accuracy in (("densenet 10-8", 0.5), ("resnet 8-8", 0.9)):
            row = whole | {"seed": seed, "network": network, "auc": 0.5, "bytes": 100 + seed}
            made += [row | {"technique": survey.WHOLE, "kind": survey.WHOLE, "accuracy": 0.95, "bytes": 400}]
            made += [row | {"technique": "svd", "kind": "low rank", "accuracy": accuracy + 0.001 * seed}]
            made += [
                row | {"technique": "int8", "kind": "quantization", "accuracy": 0.95, "bytes": 190}
            ]  # the control's
            made += [
                row | {"technique": f"narrow {size}", "kind": survey.CONTROL, "accuracy": 0.7, "bytes": size}
                for size in (50, 200)
            ]
    publish(published / "digits", "09_survey", techniques=made)
    assert findings.survey(Figures(published)) == {
        **{"techniques": 1, "beat": {"DenseNet": 0, "ResNet": 1}},
        "origin": "digits, n = 2",
    }


def test_every_chapter_has_a_row_with_its_own_question_and_a_technique_its_names(tmp_path):
    rows = lines(pages.chapters_table(Figures(tmp_path)))
    assert [row[0].partition(".")[0] for row in rows] == [f"[{number}" for number in range(1, 15)]
    assert "notebooks/02_distill.ipynb) (`distill`, in nodes `kd`)" in rows[1][0]
    assert "notebooks/03_prune.ipynb) (`prune`, in nodes `imp`)" in rows[2][0]
    assert rows[1][1] == "Does a small network learn more from a large one than from the labels alone?"
    assert all(len(row) == 3 and row[2].isdigit() for row in rows)


def test_a_tree_of_a_variant_stands_beside_the_plain_one_and_a_part_of_one_does_not(published):
    assert pages.compared_table(Figures(published)) == "No tree of a variant is published."
    shutil.copytree(published / "mine", published / "mine-other")
    nodes = pd.read_csv(published / "mine-other" / "nodes.csv")
    nodes.assign(test_accuracy=nodes["test_accuracy"] + 0.01).to_csv(
        published / "mine-other" / "nodes.csv", index=False
    )
    edit(published, "mine-other", seeds=[0, 1], nodes=[node for node, *_ in NODES])
    edit(published, "mine", seeds=[0, 1])
    text = pages.compared_table(Figures(published))
    assert "| teacher | 91.50 | 92.50 | +1.00 ± 0.00 | 1.000 |" in text and text.count("| teacher") == 3
    edit(published, "mine-other", nodes=["teacher"])
    assert pages.compared_table(Figures(published)) == "No tree of a variant is published."


def lines_of_margins(published) -> list:
    """What margins_text says of the one study that has any, in a line, and the cells of its table's rows."""
    text = pages.margins_text(Figures(published))
    (said,) = [line for line in text.splitlines() if line.startswith("- ")]
    return [said, *lines(text[text.index("| study |") :])]


def test_combinations_are_counted_beside_narrower_networks_of_their_bytes(published):
    assert "not published yet" in pages.margins_text(Figures(published))
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
    edit(published, "digits", seeds=[0])
    publish(published / "digits", "07_sweep", control=rows)
    said, *shown = lines_of_margins(published)
    assert said == (
        "- `digits`, beside 2 narrower networks in floats and int8, by means: 1 × above; 2 × below; "
        "1 × larger than every narrower network, beside none; 1 × smaller than every narrower network."
    )
    assert shown == [
        ["digits", "teacher", "+10.00", "above"],
        ["digits", "distillation", "-10.00", "below"],
        ["digits", "SVD", "-2.02", "below"],
        ["digits", "int8", "–", "larger than every narrower network, beside none"],
        ["digits", "pruning", "–", "smaller than every narrower network"],
    ]


def test_margins_over_narrower_networks_have_students_interval_over_the_seeds(published):
    of_seeds = {"teacher-imp": (-5.0, -3.0, -4.0, -4.0), "teacher": (0.0, 2.0, 3.0, -4.0)}
    nodes, words = [*of_seeds, "teacher-kd"], ["is beaten", "cannot tell", "no control as small"]
    numbers = [*((np.mean(each), np.std(each, ddof=1)) for each in of_seeds.values()), (None, None)]
    rows = [{"node": node, "kind": "combination", "growth": None, "seeds": 4.0} for node in nodes]
    rows += [{"node": None, "kind": "int8", "growth": 1.0, "seeds": None}]
    judged_so = [
        {"node": node, "margin": mean, "sd": sd, "verdict": word}
        for node, (mean, sd), word in zip(nodes, numbers, words, strict=True)
    ]
    edit(published, "digits", seeds=[0, 1, 2, 3])
    publish(published / "digits", "07_sweep", control=rows, margins=judged_so)
    said, *shown = lines_of_margins(published)
    assert said.endswith("by intervals over 4 seeds: 1 × cannot tell; 1 × is beaten; 1 × no control as small.")
    beaten, unknown = (
        "{:+.2f} ({:+.2f} to {:+.2f})".format(np.mean(each), *statistics.t_interval(each)) for each in of_seeds.values()
    )
    assert shown == [
        ["digits", "teacher", unknown, "cannot tell"],
        ["digits", "pruning", beaten, "is beaten"],
        ["digits", "distillation", "–", "no control as small"],
    ]


def test_what_is_said_of_the_papers_own_network_is_held_against_no_other(published):
    densenet = {"name": "densenet", "args": {"depth": claims.PAPER_DEPTH}, "restored": False}
    assert frontier_published.another_network({}) == "" == frontier_published.another_network({"teacher": densenet})
    assert frontier_published.another_network({"teacher": VGG}) == "VGG of width 20 and its student"
    smaller = densenet | {"args": {"depth": 22}, "restored": True}
    assert frontier_published.another_network({"teacher": smaller}) == "DenseNet-22 and its student"  # by a file
    edit(published, "mine", teacher=smaller | {"restored": False})
    found = {row[1]: row[4] for row in lines(pages.claims_table(Figures(published)))}
    assert found["DenseNet reaches 92.8 %"].startswith("not comparable")
    assert found["int8 alone saves 73.1 %"] == claims.CONTRADICTED


@pytest.mark.parametrize("page", pages.PAGES)
def test_a_page_is_what_make_figures_would_write(page):
    text, there = (ROOT / page).read_text(), Figures(ROOT / "figures")
    for name, content in pages.PAGES[page].items():
        assert f"<!-- {name}: made by make figures -->\n\n{content(there)}\n\n<!-- end of {name} -->" in text, name


def test_what_the_nodes_say_is_by_the_counts_that_the_paper_has():
    nodes = {
        "teacher": (0.92, 4000, 4000, 1.0),
        "teacher-imp": (0.91, 4000, 400, 0.95),
        "teacher-int8": (0.915, 1000, 990, 0.99),
        "teacher-imp-int8": (0.9, 1000, 100, 0.94),
    }
    columns = ["test_accuracy", "bytes_dense", "bytes_nonzero", "agreement"]
    table = pd.DataFrame.from_dict(nodes, orient="index", columns=columns)
    said = across_studies.of_nodes(table, 10_000)
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
    nodes = published / "mine" / "nodes.csv"
    table = pd.read_csv(nodes)
    pruned = table[table["node"] == "teacher"].assign(node="teacher-imp")
    pruned["test_accuracy"] -= 0.0173
    pruned["agreement"] = 0.91
    pd.concat([table, pruned]).to_csv(nodes, index=False)
    says = {key: judged.statement(claims.CLAIMS[key]) for key in ("imp_saved", "imp_cost")}

    def table_of(cost):
        measured = {"imp_saved": claims.Measured(89.82), "imp_cost": claims.Measured(cost)}
        publish(published / "mine", "03_prune", measured)
        return {row[1]: row for row in lines(pages.claims_table(Figures(published))) if row[0].startswith("03")}

    found = table_of(1.73)
    assert found[says["imp_cost"]][0] == "03, interval by its nodes"
    assert found[says["imp_cost"]][3].startswith("+1.73 points (+1.1")  # of the images on which they disagree
    assert found[says["imp_cost"]][4] == (
        "undecided: the interval holds 1.4 points, an edge of the tolerance (one seed)"
    )
    assert found[says["imp_saved"]][:1] + found[says["imp_saved"]][3:5] == ["03", "89.82 %", "reproduced"]
    other = table_of(1.70)[says["imp_cost"]]  # of another run
    assert other[:1] + other[3:5] == ["03", "+1.70 points", "undecided: no interval"]


def test_what_several_studies_found_alike_is_one_row(published):
    shutil.copytree(published / "mine", published / "yours")
    edit(published, "yours", seeds=[0])
    last = lines(pages.claims_table(Figures(published)))[-1]
    assert (last[0], last[-1]) == ("08", "mine, yours")


def test_what_is_not_measured_yet_is_said(tmp_path):
    there = Figures(tmp_path)
    assert "Not measured yet" in pages.marks_table(there) and "Not measured yet" in pages.goals_table(there)
    assert "Not measured yet" in pages.claims_table(there) and "not published" in pages.nodes_table("digits", there)


def test_a_page_keeps_what_is_outside_the_markers(tmp_path, monkeypatch):
    begin, end = "<!-- {}: made by make figures -->", "<!-- end of {} -->"
    for page, names in {"README.md": ["a", "b"], "docs/results.md": []}.items():
        (tmp_path / page).parent.mkdir(exist_ok=True)
        text = "".join(f"{begin.format(name)}\nold\n{end.format(name)}\nafter {name}\n" for name in names)
        (tmp_path / page).write_text(f"before\n{text}")
    (tmp_path / "CITATION.cff").write_text("date-released: 2020-01-01\nx: 1\n")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "studies.json").write_text(json.dumps({"x": {"date": "2030-02-03T", "data": {"name": ""}}}))
    there = Figures(tmp_path / "figures")
    monkeypatch.setattr(pages, "PAGES", {"README.md": {"a": lambda _: r"new \1", "b": lambda _: "too"}})
    pages.write(tmp_path, there)
    made = f"{begin}\n\n{{}}\n\n{end}\nafter {{}}\n".format
    written = "before\n" + made("a", r"new \1", "a", "a") + made("b", "too", "b", "b")
    assert (tmp_path / "README.md").read_text() == written
    assert (tmp_path / "CITATION.cff").read_text() == "date-released: 2030-02-03\nx: 1\n"
    monkeypatch.setattr(pages, "PAGES", {"README.md": {"c": lambda _: "new"}})
    with pytest.raises(SystemExit, match=r"^README.md: expected '<!-- c: made by make figures -->.*once, found it 0"):
        pages.write(tmp_path, there)
