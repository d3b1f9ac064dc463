"""What `make study PROFILE=smoke` left, and what Snakemake would do next. Runs after it."""

import json
import os
import re
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from projects import ROOT, copy_project, edit, environment, study
from smoke import NODES, RUN, metrics

from engine.settings import chapters, parameters
from studylib.data import datasets, scoring
from studylib.disk import models
from studylib.networks.gates import TOLERANCE
from studylib.tree import names
from studylib.tree.table import COLUMNS

pytestmark = pytest.mark.usefixtures("run")


def planned(project, *arguments):
    result = study(project, "--profile", "smoke", *arguments, "--", "-n")
    assert result.returncode == 0, result.stdout
    return set(re.findall(r"runs/smoke/seed0/(teacher[\w-]*)$", result.stdout, flags=re.M))


def test_every_node_left_its_model_spec_metrics_and_notebook():
    for node in NODES:
        for name in (
            "model.safetensors",
            "model.json",
            "model.slnc",
            "metrics.json",
            "notebook.ipynb",
            "test_logits.safetensors",
        ):
            assert (RUN / "seed0" / node / name).exists(), f"{node}/{name}"
        assert not (RUN / "seed0" / node / "unfinished").exists()


def test_the_table_has_a_row_for_every_node_and_the_columns_of_the_design():
    table = pd.read_csv(RUN / "sweep.csv")
    assert list(table["node"]) == NODES and list(table.columns) == COLUMNS
    assert not table.drop(columns="bytes_nncodec").isna().any().any()


def test_every_number_of_the_table_can_be_had_again_from_the_folder():
    digits = datasets.load("digits", 0)
    table = pd.read_csv(RUN / "sweep.csv").set_index("node")
    for node in NODES:
        model = models.load_model(RUN / "seed0" / node)
        logits = scoring.predict(model, digits.test, digits)
        assert scoring.scores(logits, digits.test.labels)["accuracy"] == pytest.approx(table.loc[node, "test_accuracy"])


def test_specs_record_every_technique_in_order():
    for node in NODES:
        said = [change["technique"] for change in metrics(RUN, node)["changes"]]
        assert said[-1] == node.rpartition("-")[2]
        if "-kd" not in node:
            assert said == node.split("-")


def test_zeros_of_pruning_live_through_what_follows():
    pruned = models.load_model(RUN / "seed0" / "teacher-imp")
    for node in ("teacher-imp-svd", "teacher-imp-int8", "teacher-imp-svd-int8"):
        later = models.load_model(RUN / "seed0" / node)
        for name, module in later.named_modules():
            if hasattr(module, "weight") and hasattr(pruned, "spec") and name.endswith("conv"):
                zeros = pruned.get_submodule(name).weight == 0
                assert zeros.any() and (module.weight[zeros] == 0).all(), f"{node}: {name}"


def test_a_second_study_has_nothing_to_do(project):
    result = study(project, "--profile", "smoke")
    assert result.returncode == 0, result.stdout
    assert "0 of 16 nodes run now: everything was up to date, nothing trained" in result.stdout
    assert len(re.findall(r"^\s*teacher\S*\s+\d", result.stdout, flags=re.M)) == 16


def test_a_changed_parameter_reruns_its_stage_and_what_stands_on_it_and_a_lost_model_is_made_again(project):
    edit(project / "papermill_params" / "smoke.yaml", "{delta: 1}", "{delta: 2}")
    (project / "runs/smoke/seed0/teacher-kd-imp-int8/model.safetensors").unlink()
    assert planned(project) == {node for node in NODES if "svd" in node} | {"teacher-kd-imp-int8"}


def test_changed_code_reruns_what_it_can_change(project):
    edit(project / "studylib" / "networks" / "pt2e.py", "images.split(128)", "images.split(64)")
    assert planned(project) == {node for node in NODES if "int8" in node}


def test_comments_what_only_a_lesson_does_or_is_given_and_touched_files_rerun_nothing(project):
    code = project / "studylib" / "techniques" / "int8.py"
    edit(code, '"""Static quantization', '# a remark\n"""Static quantization')
    edit(project / "studylib" / "results" / "style.py", "DPI = 220", "DPI = 221")
    edit(project / "papermill_params" / "smoke.yaml", "{delta: 1}", "{delta: 1}\n  ranks: {seeds: 3}")
    for path in [*project.glob("notebooks/*"), *project.glob("studylib/**/*"), *project.glob("papermill_params/*")]:
        os.utime(path)
    assert planned(project) == set()


def test_lost_latencies_are_measured_again(project):
    (project / "runs/smoke/latency.json").unlink()
    result = study(project, "--profile", "smoke")
    assert result.returncode == 0 and re.search(
        r"^\[ +1/3\] runs/smoke/latency.json, \d+ s(; \d+ left, about .*)?$", result.stdout, flags=re.M
    )
    assert (project / "runs/smoke/latency.json").exists()


def test_a_failed_node_leaves_its_notebook_with_the_error_and_says_where(project):
    notebook = project / "notebooks" / "05_int8.ipynb"
    edit(notebook, "metrics = node.make(quantized)", "raise ValueError('on purpose')")
    result = study(project, "--profile", "smoke", "--stages", "int8")
    assert result.returncode != 0
    assert "ValueError: on purpose" in result.stdout
    assert "\nfailed: runs/smoke/seed0/teacher-int8\nits log: runs/smoke/seed0/teacher-int8/log.txt\n" in result.stdout
    assert "RuleException" not in result.stdout and "{" not in result.stdout
    path = project / "runs/smoke/seed0/teacher-int8/notebook.ipynb"
    assert f"The notebook with the error in it: {path}" in result.stdout
    outputs = [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]
    assert any(o.output_type == "error" and o.ename == "ValueError" for o in outputs)


@pytest.mark.long  # its job says so: test_execute.py
def test_a_kernel_that_dies_is_said_to_have_died(project):
    edit(project / "notebooks" / "05_int8.ipynb", "metrics = node.make(quantized)", "import os; os._exit(3)")
    result = study(project, "--profile", "smoke", "--stages", "int8")
    assert result.returncode != 0 and "The kernel died: it crashed, or was killed" in result.stdout


def hostile(tmp_path) -> dict[str, str]:
    """Settings of a user, each of which has changed what the study leaves."""
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text("import torch; torch.randperm = lambda n, **_: torch.arange(n)\n")
    (tmp_path / "python.py").write_text("import torch; torch.randn_like = torch.ones_like\n")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nfont.size: 20\nsavefig.facecolor: red\n")
    long = tmp_path / ("x" * 150)
    long.mkdir()
    return {
        "IPYTHONDIR": str(startup.parents[1]),
        "PYTHONSTARTUP": str(tmp_path / "python.py"),
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "MPLBACKEND": "Agg",
        "SNAKEMAKE_PROFILE": "nowhere",
        "TMPDIR": str(long),
        **{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    }


def test_the_settings_of_a_user_or_a_machine_change_nothing(project, tmp_path):
    surroundings = hostile(tmp_path)
    again = study(project, "--profile", "smoke", **surroundings)
    assert "0 of 16 nodes run now: everything was up to date" in again.stdout, again.stdout
    run = project / "runs" / "smoke"
    shutil.rmtree(run)
    assert study(project, "--profile", "smoke", "--stages", "svd", **surroundings).returncode == 0
    for file in ("seed0/teacher/model.slnc", "seed0/teacher-svd/model.safetensors"):
        assert (run / file).read_bytes() == (RUN / file).read_bytes(), file
    ours, theirs = (plt.imread(folder / "figures" / "front.png") for folder in (run, RUN))
    assert (ours[0, 0] == theirs[0, 0]).all()  # it is no red; LaTeX, which is not needed here, would have been asked


def test_a_dry_run_writes_nothing(project):
    shutil.rmtree(project / "runs" / "smoke" / "seed0" / "teacher-svd")
    before = {path: path.stat().st_mtime_ns for path in project.glob("runs/**/*")}
    result = study(project, "--profile", "smoke", "--", "-np")
    assert result.returncode == 0 and "runs/smoke/seed0/teacher-svd\n" in result.stdout, result.stdout
    assert {path: path.stat().st_mtime_ns for path in project.glob("runs/**/*")} == before


@pytest.mark.parametrize(
    "node",
    [
        *("teacher-kd", "teacher-imp-int8"),
        *(pytest.param(node, marks=pytest.mark.long) for node in ("teacher-kd-imp", "teacher-svd")),
    ],
)
def test_a_node_run_by_hand_is_bit_for_bit_what_the_study_made_in_forks_of_a_warm_process(node, tmp_path):
    parent, _, part = node.rpartition("-")
    stage = next(key for key in chapters.notebooks() if names.part(key) == part)
    sections = parameters.load("smoke")
    given = parameters.of_node(stage, sections) | {"parent": str(RUN / "seed0" / parent), "out": str(tmp_path)}
    given |= {"published": "", "study": {"dataset": "digits", "seed": 0, "threads": sections["study"]["threads"]}}
    execute = ["engine/run/execute.py", str(chapters.notebooks()[stage]), str(tmp_path / "notebook.ipynb")]
    command = [sys.executable, *execute, "--parameters", json.dumps(given), "--skip", "lesson"]
    done = subprocess.run(command, cwd=ROOT, env=environment(ROOT), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    for file in ("model.safetensors", "test_logits.safetensors"):
        assert (tmp_path / file).read_bytes() == (RUN / "seed0" / node / file).read_bytes(), file
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, RUN / "seed0" / node))
    assert 0.5 < ours["peak_memory_mb"] / theirs["peak_memory_mb"] < 2


def test_code_edited_between_two_runs_is_what_the_second_runs(project):
    edit(project / "studylib" / "techniques" / "svd.py", '{"delta": delta,', '{"edited": True, "delta": delta,')
    assert study(project, "--profile", "smoke", "--stages", "svd").returncode == 0
    assert metrics(project / "runs/smoke", "teacher-svd")["changes"][-1]["edited"]


def test_a_teacher_of_several_objectives_roots_a_tree_that_is_compared_with_the_plain_one(project):
    result = study(project, "--profile", "smoke", "--variant", "two_objectives", "--stages", "int8")
    assert result.returncode == 0, result.stdout
    rows = result.stdout.partition("beside the profile without its variant")[2]
    assert re.search(r"^ *teacher-int8 +[\d.]+ +[\d.]+ +-?[\d.]+", rows, flags=re.M)
    ours, plain = (metrics(project / "runs" / run, "teacher") for run in ("smoke-two_objectives", "smoke"))
    assert ours["changes"][-1]["descends"] == "cross_entropy, l1 by PCD" and "descends" not in plain["changes"][-1]
    assert ours["history"][-1]["value_l1"] < ours["history"][0]["value_l1"]
    assert ours["file_sha256"] != plain["file_sha256"]


@pytest.mark.long
def test_a_teacher_that_a_controller_prunes_roots_a_tree(project):
    result = study(project, "--profile", "smoke", "--variant", "controller")
    assert result.returncode == 0, result.stdout
    whole, run = metrics(project / "runs/smoke", "teacher")["multiply_adds"], project / "runs/smoke-controller"
    found = {node: metrics(run, node) for node in NODES}
    for node, its in found.items():
        assert its["changes"][0]["technique"] == ("kd" if "kd" in node else "controller"), node
        assert "kd" in node or its["multiply_adds"] <= found["teacher"]["multiply_adds"], node
    budget = parameters.load("smoke", variant="controller")["teacher"]["guiding"]["budget"]
    assert found["teacher"]["multiply_adds"] / whole == pytest.approx(budget, abs=TOLERANCE)
    rows = result.stdout.partition("beside the profile without its variant")[2]
    assert all(re.search(rf"^ *{node} +[\d.]+ +[\d.]+ +-?[\d.]+", rows, flags=re.M) for node in NODES)


def test_a_run_goes_on_in_another_folder_after_pack_and_unpack(project, tmp_path):
    (project / "runs/smoke/seed0/teacher-svd/metrics.json").unlink()
    other, archive = copy_project(tmp_path / "other"), str(tmp_path / "smoke.tar")
    for folder, arguments in ((project, ["pack", "smoke"]), (other, ["unpack"])):
        command = [sys.executable, "engine/tools/pack.py", *arguments, archive]
        subprocess.run(command, cwd=folder, env=environment(folder), check=True, stdout=subprocess.DEVNULL)
    assert planned(other) == planned(project) == {"teacher-svd", "teacher-svd-int8"}


def test_a_damaged_model_is_refused_with_what_to_do(project):
    path = project / "runs/smoke/seed0/teacher-imp/model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    (project / "runs/smoke/seed0/teacher-imp-svd/metrics.json").unlink()
    arguments = ["--profile", "smoke", "--stages", "prune svd"]
    result = study(project, *arguments)
    assert result.returncode != 0
    assert f"{path}: truncated or altered" in result.stdout and "delete the folder" in result.stdout
    shutil.rmtree(path.parent)
    assert study(project, *arguments).returncode == 0


def test_a_run_is_published_and_without_it_tables_and_pictures_are_made_of_what_is_published(project, reduced_run):
    for folder in ("figures", "docs"):
        shutil.copytree(ROOT / folder, project / folder)
    table = "07_sweep"
    shutil.copytree(reduced_run(table).out, project / "runs" / "smoke" / "chapters" / table)
    edit(project / "engine" / "publish" / "pages.py", '"mnist", "digits")', '"mnist", "smoke")')
    page = project / "docs" / "results.md"
    page.write_text(page.read_text().replace("results of digits", "results of smoke"))
    command = [sys.executable, "engine/publish/figures.py", "smoke", "--force"]
    done = subprocess.run(command, cwd=project, env=environment(project), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    written = page.read_text()
    assert all(f"| {node} |" in written for node in NODES) and "Study `smoke`" in written
    there = json.loads((project / f"figures/smoke/{table}.json").read_text())
    assert [row["node"] for row in there["rows"]["nodes"]] == NODES and there["about"]["profile"] == "smoke"
    published = json.loads((project / "figures/models/models.json").read_text())
    ours = [name for name, about in published.items() if about["profile"] == "smoke"]
    assert ours and all((project / "figures/models" / name).stat().st_size <= 200_000 for name in ours)
    assert all(name.startswith("digits-") for name in ours)
    evaluate = [sys.executable, "engine/tools/evaluate.py", f"figures/models/{ours[0]}"]
    said = subprocess.run(evaluate, cwd=project, env=environment(project), text=True, capture_output=True)
    assert said.returncode == 0 and f"published: {published[ours[0]]['bytes']:,} bytes" in said.stdout, said.stderr
    shutil.rmtree(project / "runs")  # and without the run, from what was published
    (project / "figures/cited/narrower_networks_digits.png").unlink()
    again = subprocess.run(command, cwd=project, env=environment(project), text=True, capture_output=True)
    assert again.returncode == 0, again.stderr
    assert (project / "figures/cited/narrower_networks_digits.png").exists() and page.read_text() == written
    command[-2:] = ["nowhere"]
    missing = subprocess.run(command, cwd=project, env=environment(project), text=True, capture_output=True)
    assert missing.returncode != 0 and "nowhere" in missing.stderr
