import errno
import fcntl
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from packaging.requirements import Requirement
from projects import ROOT, copy_project, environment, read_only, tree_of
from ruamel.yaml import YAML

from engine.publish import figures
from engine.settings import chapters, parameters
from engine.tools import compare
from studylib.tree import names
from studylib.tree.table import COLUMNS

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


APART = {"book", "energy", "federated", "screening"}  # extras apart: neither locked nor in environment.yml


def locked():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", r.name).lower(): r for r in found}


def wanted():
    project = PYPROJECT["project"]
    extras = [part for name, part in project["optional-dependencies"].items() if name not in APART]
    lists = [project["dependencies"], *extras]
    return [Requirement(text) for part in lists for text in part]


def test_the_lock_pins_everything_exactly_and_within_the_bounds():
    pins = locked()
    for requirement in pins.values():
        assert [s.operator for s in requirement.specifier] == ["=="], requirement
    for requirement in wanted():
        version = next(iter(pins[re.sub(r"[-_.]+", "-", requirement.name).lower()].specifier)).version
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_every_bound_has_a_reason_beside_it():
    text = (ROOT / "pyproject.toml").read_text()
    lines = [line for line in text.splitlines() if re.match(r'\s+"[\w.-]+(\[\w+\])?[<>=]', line)]
    assert len(lines) >= len(wanted()) - 1
    assert all("#" in line for line in lines), [line for line in lines if "#" not in line]


def test_conda_installs_what_pyproject_says():
    environment_file = YAML(typ="safe").load((ROOT / "environment.yml").read_text())
    conda = [item for item in environment_file["dependencies"] if isinstance(item, str)]
    pip = next(item["pip"] for item in environment_file["dependencies"] if isinstance(item, dict))
    assert f"python{PYPROJECT['project']['requires-python']}" in conda
    assert "--requirement requirements.lock" in pip
    extras = ",".join(name for name in PYPROJECT["project"]["optional-dependencies"] if name not in APART)
    assert f"--editable .[{extras}]" in pip
    assert environment_file["name"] == PYPROJECT["project"]["name"]


def test_the_citation_is_of_this_version():
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PYPROJECT["project"]["version"]
    assert citation["license"] == PYPROJECT["project"]["license"] == "MIT"
    texts = [file.read_text() for file in (ROOT / "figures").rglob("*.json")]
    dates = [date for text in texts for date in re.findall(r'"date": "(\d{4}-\d\d-\d\d)T', text)]
    assert citation["date-released"].isoformat() == max(dates)


def test_every_stage_has_a_notebook_and_every_notebook_a_stage():
    assert sorted(chapters.notebooks().values()) == sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_nothing_in_studylib_knows_the_engine():
    for path in (ROOT / "studylib").rglob("*.py"):
        assert not re.search(r"\b(snakemake|papermill|engine)\b(?!_params)", path.read_text(), flags=re.I), path.name


def test_techniques_never_import_each_other():
    files = sorted((ROOT / "studylib" / "techniques").glob("[a-z]*.py"))
    assert {"distill", "prune", "svd", "int8", "teacher"} <= {file.stem for file in files}
    for file in files:
        imported = re.findall(r"^\s*(?:from|import) +studylib\.techniques.*$", file.read_text(), flags=re.M)
        assert not imported, f"{file.stem}: {imported}"


@pytest.fixture
def published(tmp_path):
    """A copy of the project with a run of made-up rows."""
    project = copy_project(tmp_path / "copy")
    rows = []
    for seed in (0, 1):
        for i, node in enumerate(names.nodes(["distill", "prune", "svd", "int8"])):
            row = dict.fromkeys(COLUMNS, 1.0 + i) | {"node": node, "seed": seed, "bytes_file": 1000 - i}
            rows.append(row | {"test_accuracy": 0.9 - 0.01 * i + 0.001 * seed, "val_accuracy": 0.9})
    table = pd.DataFrame(rows)
    (project / "runs" / "made_up").mkdir(parents=True)
    table.to_csv(project / "runs" / "made_up" / "sweep.csv", index=False)
    return project, table


def run(project, script, *arguments, prefix=()):
    command = [*prefix, sys.executable, f"engine/tools/{script}.py", *arguments]
    return subprocess.run(command, cwd=project, env=environment(project), text=True, capture_output=True)


def test_compare_sets_two_runs_side_by_side(published):
    project, table = published
    better = table.assign(test_accuracy=table["test_accuracy"] + 0.01)
    better.to_csv(project / "better.csv", index=False)
    result = run(project, "compare", "made_up", "better.csv")
    assert result.returncode == 0, result.stderr
    assert len(re.findall(r"^\s*teacher\S*\s", result.stdout, flags=re.M)) == 16
    assert len(re.findall(r"1\.00 ± 0\.00", result.stdout)) == 16
    missing = run(project, "compare", "made_up", "nowhere")
    assert missing.returncode != 0 and "'nowhere'" in missing.stderr
    shutil.copytree(ROOT / "figures" / "digits", project / "figures" / "digits")
    shutil.copy(ROOT / "figures" / "studies.json", project / "figures")
    for other in ("published", "made_up"):
        alone = run(project, "compare", "digits", other)  # which is published, and has no run here
        assert alone.returncode and "/runs/digits/sweep.csv. make compare" in alone.stderr
    assert "figures/made_up: not published" in run(project, "compare", "made_up", "published").stderr
    usage = run(project, "compare", "", "")
    assert usage.returncode != 0 and "A=" in usage.stderr


TABLE = "node,seed,test_accuracy,bytes_file\nteacher,0,0.9,1000\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not a table"),
        (b"a,b\n1,2,3\n4,5\n", "a table without node, seed, test_accuracy, bytes_file"),
        (b'a,b\n"1,2\n', "not a table"),
        (b"\xff\xfe\x00", "not a table"),
        (TABLE.replace("bytes_file", "bytes").encode(), "a table without bytes_file"),
        (TABLE.replace("0.9", "good").encode(), "test_accuracy is not a column of numbers"),
    ],
)
def test_a_damaged_table_is_named(inside, monkeypatch, content, why):
    (inside / "good.csv").write_text(TABLE)
    (inside / "bad.csv").write_bytes(content)
    monkeypatch.chdir(inside)
    for pair, named in (
        (("good.csv", "bad.csv"), "bad.csv"),
        (("bad.csv", "good.csv"), "bad.csv"),
    ):
        with pytest.raises(SystemExit, match=f"^{named}: ") as stopped:
            compare.main(*pair)
        assert (why in str(stopped.value) or "profile" in str(stopped.value)) and "\n" not in str(stopped.value)


def test_a_table_that_cannot_be_read_is_not_called_damaged(inside, monkeypatch):
    (inside / "good.csv").write_text(TABLE)
    (inside / "closed.csv").write_text(TABLE)
    (inside / "closed.csv").chmod(0)
    (inside / "folder.csv").mkdir()
    monkeypatch.chdir(inside)
    command = [sys.executable, ROOT / "engine/tools/compare.py", "good.csv", "closed.csv"]
    with read_only() as prefix:
        result = subprocess.run([*prefix, *command], text=True, capture_output=True)
    assert result.returncode == 1 and result.stderr == "closed.csv: Permission denied; nothing was compared\n"
    with pytest.raises(SystemExit, match=r"^folder.csv: Is a directory; nothing was compared$"):
        compare.main("good.csv", "folder.csv")


def test_what_cannot_be_removed_is_said_in_a_sentence(published):
    project, _ = published
    before = tree_of(project)
    with read_only(project / "runs") as prefix:
        result = run(project, "clean", "made_up", prefix=prefix)
    assert (
        result.returncode == 1
        and result.stderr == f"{project}/runs/made_up/.lock: Permission denied; nothing was changed\n"
    )
    assert tree_of(project) == before
    (project / "runs/made_up/.lock").touch()
    with read_only(project / "runs/made_up") as prefix:
        (project / "runs/made_up/.lock").chmod(0o644)
        result = run(project, "clean", "made_up", prefix=prefix)
    assert result.returncode == 1 and f"{project}/runs/made_up: sweep.csv: Permission denied" in result.stderr
    assert len(result.stderr.splitlines()) == 1


BAD_LISTS = [b"", b"{", b"\xff", b"[" * 100_000, b"[]", b'{"a.slnc": 3}', b'{"a.slnc": {"profile": 3}}']


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """An empty folder as the project of this process."""
    for module in (compare, figures):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def test_what_is_damaged_is_named_by_make_figures(inside, monkeypatch):
    made = dict.fromkeys(("git_commit", "date", "hardware", "python", "threads", "packages"), "x")
    latency = dict.fromkeys(("batch", "compiled", "threads", "seed", "device"), 1)
    row = dict.fromkeys(COLUMNS, 1.0) | {"node": "teacher", "seed": 0}
    study = {"nodes": [], "seeds": [], "chapters": [], "data": {"name": "digits"}}
    chapter = {key: {} for key in ("about", "settings", "metrics", "rows", "claims")} | {"chapter": "03"}
    files = {
        "runs/made_up/sweep.csv": pd.DataFrame([row]).to_csv(index=False),
        "runs/made_up/latency.json": json.dumps(latency),
        "runs/made_up/seed0/teacher/metrics.json": json.dumps({"provenance": made, "data": {"name": "digits"}}),
        "runs/made_up/chapters/03/chapter.json": json.dumps(chapter),
        "runs/made_up/seed0/teacher/model.json": json.dumps({"spec": {"name": "densenet", "args": {}, "changes": []}}),
        "figures/studies.json": json.dumps({"made_up": study}),
        "figures/models/models.json": "{}",
        "figures/made_up/nodes.csv": TABLE,
    }
    for name, content in files.items():
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).write_text(content)
    monkeypatch.setattr("sys.argv", ["figures.py", "made_up"])
    damaged = [(name, b"{") for name in files if not name.endswith(".csv")]
    damaged += [("figures/made_up/nodes.csv", b""), ("runs/made_up/sweep.csv", b"\xff")]
    damaged += [("runs/made_up/sweep.csv", TABLE.encode()), ("runs/made_up/chapters/03/chapter.json", b"{}")]
    damaged += [("figures/models/models.json", content) for content in BAD_LISTS]
    for name, content in damaged:
        (inside / name).write_bytes(content)
        before = tree_of(inside)
        with pytest.raises(SystemExit, match=f"^{inside / name}: ") as stopped:
            figures.command()
        assert "\n" not in str(stopped.value) and tree_of(inside) == before
        (inside / name).write_text(files[name])
    monkeypatch.setattr(Path, "read_bytes", lambda path: refuse(path))
    with pytest.raises(SystemExit, match=r"json: Input/output error; what was written before it stays$"):
        figures.command()


def refuse(path):
    raise OSError(errno.EIO, "Input/output error", str(path))


def test_clean_removes_one_run_and_says_what_it_frees(published):
    project, _ = published
    (project / "runs" / "other").mkdir()
    (project / "runs" / "other" / "file").write_bytes(bytes(2_000_000))
    (project / "runs" / "made_up" / "file").write_bytes(bytes(3_000_000))
    result = run(project, "clean", "made_up")
    assert "runs/made_up: removed, 3.0 MB freed" in result.stdout
    assert not (project / "runs" / "made_up").exists() and (project / "runs" / "other" / "file").exists()
    assert run(project, "clean", "../engine").returncode != 0
    misspelt = run(project, "clean", "othr")
    assert misspelt.returncode != 0 and "expected PROFILE=all or one of other" in misspelt.stderr
    with open(project / "runs" / "other" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        busy = run(project, "clean", "other")
    assert busy.returncode != 0 and "is running there already" in busy.stderr
    assert (project / "engine").exists()


def test_make_help_names_every_command():
    text = subprocess.run(["make", "help"], cwd=ROOT, text=True, capture_output=True).stdout
    profiles = re.search(r"profiles: (.*)", text)[1].split()
    assert profiles == sorted(path.stem for path in parameters.FOLDER.glob("*.yaml") if path.stem != "chapters")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert re.findall(r"^  ([a-z-]+) +\S", text, flags=re.M) == targets and {"study", "test", "figures"} <= set(targets)
    assert all(len(line) < 130 for line in text.splitlines()[1:])


def test_root_is_told_its_new_name():
    result = subprocess.run(["make", "-n", "study", "ROOT=moo"], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode != 0 and "ROOT=moo: it is called VARIANT now" in result.stderr


def test_make_test_runs_unit_tests_and_every_notebook_against_its_outputs_and_test_long_the_reduced_ones():
    made, long = (
        subprocess.run(["make", "-n", each], cwd=ROOT, text=True, capture_output=True).stdout
        for each in ("test", "test-long")
    )
    unit, notebooks = [line for line in made.splitlines() if "-m pytest" in line]
    assert re.search(r"-m pytest -q tests/notebooks/reduced --nbval-lax", long)
    assert "ruff check" in made and '--profile "smoke"' in made and "--cov" in unit and "-n 2" in unit
    assert " tests/notebooks notebooks " in notebooks and "--nbval-lax" in notebooks
    names = [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert names and names == [path.name for path in sorted((ROOT / "tests/notebooks/reduced").glob("*.ipynb"))]


def test_files_are_read_and_written_in_utf_8_whatever_the_locale():
    for path in [*ROOT.glob("engine/**/*.py"), *ROOT.glob("studylib/**/*.py"), ROOT / "Snakefile"]:
        for line in path.read_text(encoding="utf-8").splitlines():
            text_mode = re.search(r"\.(read|write)_text\(|(?<!tarfile\.)\bopen\([^)]*\"[rwa]t?\"", line)
            assert not text_mode or "encoding=" in line, f"{path.name}: {line.strip()}"
