import fcntl
import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from projects import ROOT, copy_project, edit, environment, read_only, study, tree_of
from ruamel.yaml import YAML

from engine.run.study import asked_of_snakemake
from engine.settings import chapters, parameters
from studylib.experiments import run_report
from studylib.tree import names, table


@pytest.fixture
def project(tmp_path):
    return copy_project(tmp_path / "copy")


@pytest.fixture(scope="module")
def digits_plan(tmp_path_factory):
    """What a dry run of the digits says in a project where nothing was run."""
    result = study(copy_project(tmp_path_factory.mktemp("planned") / "copy"), "--profile", "digits", "--", "-n")
    assert result.returncode == 0, result.stdout
    return result.stdout


def nodes_of(said):
    """Folder names of the nodes that a dry run would make."""
    return re.findall(r"runs/\w+/(seed\d+/teacher[\w-]*)$", said, flags=re.M)


def planned(project, *arguments):
    result = study(project, *arguments, "--", "-n")
    assert result.returncode == 0, result.stdout
    return nodes_of(result.stdout)


def test_a_fresh_study_plans_every_node_of_every_seed_once(digits_plan):
    found = nodes_of(digits_plan)
    stages = ["distill", "prune", "svd", "int8"]
    assert sorted(found) == sorted(f"seed{seed}/{node}" for seed in range(10) for node in names.nodes(stages))


def test_seeds_and_stages_choose_a_part_of_the_tree(project):
    found = planned(project, "--profile", "digits", "--seeds", "7", "--stages", "prune int8")
    assert sorted(found) == ["seed7/teacher", "seed7/teacher-imp", "seed7/teacher-imp-int8", "seed7/teacher-int8"]


def test_one_more_name_in_the_list_of_stages_grows_the_tree(project):
    declared = project / "papermill_params" / "chapters.yaml"
    records = YAML(typ="safe").load(declared.read_text())["svd"]["records"]
    again = f"again: {{notebook: 04_svd, role: technique, minutes: 1, records: {json.dumps(records)}}}\n"
    edit(declared, "int8:\n  notebook", f"{again}int8:\n  notebook")
    found = planned(project, "--profile", "smoke")
    assert len(found) == len(set(found)) == 32
    assert "seed0/teacher-kd-imp-svd-again-int8" in found


def test_a_variant_has_a_tree_of_its_own_and_no_chapters(project):
    result = study(project, "--profile", "digits", "--variant", "two_objectives", "--", "-n")
    assert result.returncode == 0, result.stdout
    found = re.findall(r"runs/digits-two_objectives/(seed\d+/teacher[\w-]*)$", result.stdout, flags=re.M)
    assert len(found) == len(set(found)) == 160
    assert "chapters" not in result.stdout and "runs/digits/" not in result.stdout


def test_the_slurm_profile_submits_the_same_tree(project):
    result = study(project, "--profile", "smoke", "--", "-n", "--profile", "engine/slurm")
    assert result.returncode == 0, result.stdout
    assert len(set(nodes_of(result.stdout))) == 16


def test_the_graph_of_rules_can_be_drawn_without_graphviz(project):
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--rulegraph",
        "mermaid-js",
        "--cores",
        "1",
        "--config",
        "profile=smoke",
    ]
    result = subprocess.run(command, cwd=project, env=environment(project), text=True, capture_output=True)
    assert result.returncode == 0 and "int8" in result.stdout


def chapters_of(said):
    return sorted(re.findall(r"runs/\w+/chapters/(\w+)$", said, flags=re.M))


def asked(stages):
    """The chapters that the digits have with these stages."""
    return [chapters.declared()[key].name for key in parameters.load("digits", stages=stages)["study"]["chapters"]]


def test_each_chapter_runs_its_lesson_once_a_profile(digits_plan):
    names = ["01_teacher", "02_distill", "03_prune", "04_svd", "05_int8"]
    last = ["06_moo", "07_sweep", "08_frontier", "09_survey", "10_gpt", "11_vae", "12_screening", "14_controller"]
    assert chapters_of(digits_plan) == asked("") == [*names, *last]
    assert asked("svd") == [names[0], names[3], *last]
    assert asked("none") == [names[0], last[0], *last[2:]]


def test_a_dry_run_writes_nothing_of_a_run(project):
    """Nor does it in a folder that is there: tests/notebooks/test_smoke_run.py."""
    before = {at: content for at, content in tree_of(project).items() if not at.startswith(".snakemake")}
    result = study(project, "--profile", "smoke", "--", "-n")
    assert result.returncode == 0, result.stdout
    assert len(set(nodes_of(result.stdout))) == 16 and chapters_of(result.stdout) == []  # nbval runs them
    assert {at: content for at, content in tree_of(project).items() if not at.startswith(".snakemake")} == before


def test_a_study_that_cannot_be_written_says_so_in_a_sentence(project):
    with read_only(project) as prefix:
        result = study(project, "--profile", "smoke", prefix=prefix)
    assert result.returncode == 1 and result.stdout == f"{project}/runs: Permission denied; nothing was changed\n"
    (project / "runs").write_bytes(b"")
    result = study(project, "--profile", "smoke")
    assert result.returncode == 1 and result.stdout == f"{project}/runs/smoke: Not a directory; nothing was changed\n"


def test_a_dry_run_is_refused_while_the_profile_is_run_and_allowed_beside_another(project):
    (project / "runs/smoke").mkdir(parents=True)
    with open(project / "runs/smoke/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert study(project, "--profile", "smoke", "--", "-n").returncode == 0
        fcntl.flock(lock, fcntl.LOCK_EX)
        busy = study(project, "--profile", "smoke", "--", "-n")
    assert busy.returncode == 1 and "is running there already" in busy.stdout


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        pytest.param("3", ["03"], marks=pytest.mark.long),
        ("06 svd", ["04", "06"]),
        pytest.param("", [*(f"{k:02}" for k in range(1, 13)), "14"], marks=pytest.mark.long),
    ],
)
def test_single_chapters_are_planned_with_what_they_need_and_nothing_else(project, words, numbers):
    result = study(project, "--profile", "digits", "--chapters", words, "--", "-n")
    assert result.returncode == 0, result.stdout
    assert sorted(set(re.findall(r"runs/digits/chapters/(\d\d)_", result.stdout))) == numbers
    nodes = set(re.findall(r"runs/digits/(seed\d+/teacher[\w-]*)$", result.stdout, flags=re.M))
    reads = {
        "3": ["teacher", "teacher-imp"],
        "06 svd": ["teacher", "teacher-svd", "teacher-kd", "teacher-kd-imp"],
        "": names.nodes(["distill", "prune", "svd", "int8"]),  # the sweep's are all, of every seed
    }[words]
    assert {f"seed0/{node}" for node in reads} <= nodes
    assert words == "" or len(nodes) == len(reads)


@pytest.mark.parametrize(("words", "keys"), [("3", ["prune"]), ("svd 06,4", ["svd", "moo"]), ("03_prune", ["prune"])])
def test_chapters_are_named_by_number_by_key_or_by_notebook(words, keys):
    assert parameters.chapters(parameters.load("digits"), words) == keys


def test_a_chapter_that_needs_an_extra_is_run_where_it_is_named_alone():
    sections = parameters.load("digits")
    assert "federated" not in parameters.chapters(sections, "") and "federated" not in sections["study"]["chapters"]
    assert parameters.chapters(sections, "13 3") == ["federated", "prune"]
    assert "federated" in sections["study"]["chapters"]  # its page and its checks know of it then
    assert parameters.load("smoke", variant="federated")["study"]["chapters"] == ["federated"]
    with pytest.raises(parameters.ParameterError, match=r"none is run"):
        parameters.chapters(parameters.load("digits", seeds="1"), "13")


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (["chapters", "CHAPTERS=13"], True),
        (["chapters", "CHAPTERS=3,13_federated"], True),
        (["study", "PROFILE=cifar10", "VARIANT=federated"], True),
        (["chapters", "CHAPTERS=3 14"], False),
        (["study"], False),
    ],
)
def test_make_installs_an_extra_for_the_chapter_that_needs_it_alone(given, asked):
    command = ["make", "-n", "-W", ".venv/.ready", *given]  # as if .venv were new
    dry = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert ("pip install" in dry.stdout and "'.[federated]'" in dry.stdout) == asked, dry.stdout + dry.stderr


@pytest.mark.parametrize("words", ["15", "prunes", "03 x"])
def test_a_chapter_that_is_not_there_is_named_with_those_that_are(words):
    said = f"^chapter '{words.split()[-1]}': expected one that is run with the stages distill, prune, svd, int8: 01_"
    with pytest.raises(parameters.ParameterError, match=said):
        parameters.chapters(parameters.load("digits"), words)
    with pytest.raises(parameters.ParameterError, match=r"^chapters '3': none is run; study.chapters is empty, or"):
        parameters.chapters(parameters.load("smoke"), "3")


@pytest.mark.parametrize("profile", ["mnist", "smoke"])  # with other chapters, with none
def test_a_chapter_that_other_runs_have_is_refused_with_their_names(profile):
    with pytest.raises(parameters.ParameterError, match="; 14_controller is run by PROFILE=cifar10 VARIANT=filters"):
        parameters.chapters(parameters.load(profile), "14")


@pytest.mark.parametrize(
    ("words", "stages", "known"),
    [("3", "distill", "01_teacher, 02_distill, 06_moo, "), ("7", "none", "01_teacher, 06_moo, ")],
)
def test_a_chapter_that_the_stages_leave_out_is_refused(words, stages, known):
    with pytest.raises(parameters.ParameterError) as refused:
        parameters.chapters(parameters.load("digits", stages=stages), words)
    said = str(refused.value)
    assert said.startswith(f"chapter {words!r}: expected one that is run with the stages {stages}: {known}")


def test_what_is_refused_is_said_in_a_sentence(project):
    refused = study(project, "--profile", "digits", "--chapters", "3", "--stages", "distill", "--", "-n")
    assert refused.stdout.startswith("chapter '3': expected one") and refused.returncode == 1
    assert len(refused.stdout.splitlines()) == 1


def test_nothing_was_trained_only_where_no_chapter_was_run_either(tmp_path, capsys):
    chapter = tmp_path / "runs" / "mine" / "chapters" / "03" / "chapter.json"
    chapter.parent.mkdir(parents=True)
    chapter.write_text("{}")
    row = dict.fromkeys(table.COLUMNS, 1.0) | {"node": "teacher", "seed": 0}
    pd.DataFrame([row]).to_csv(tmp_path / "runs" / "mine" / "sweep.csv", index=False)
    made = chapter.stat().st_mtime
    run_report.report(tmp_path / "runs" / "mine", made - 1)
    assert "\n0 of 1 nodes run now\n" in capsys.readouterr().out
    run_report.report(tmp_path / "runs" / "mine", made + 1)
    assert "\n0 of 1 nodes run now: everything was up to date, nothing trained\n" in capsys.readouterr().out


def test_what_the_study_hands_to_snakemake_cannot_be_taken_away(project):
    for config in (["--config", "foo=1"], ["--config=profile=digits"], ["-C", "seeds=3"]):
        with pytest.raises(SystemExit, match="the study sets it"):
            asked_of_snakemake([*config, "-n"])
    result = study(project, "--profile", "smoke", "--", "-C", "seeds=3", "-n")
    assert result.returncode != 0 and "the study sets it" in result.stdout and not (project / "runs").exists()
