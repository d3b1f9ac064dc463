"""What a reader sees: each chapter, executed, shows its figures, however it was run and wherever it lies."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from projects import ROOT, environment

from engine import parameters, warm

REDUCED = parameters.read_yaml(ROOT / "tests" / "reduced.yaml")
CHAPTERS = {path.stem: path for path in parameters.notebooks().values()}
DRAWS = r"report\.save_figure\(|report\.show_published\("
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SEEN = """<script>addEventListener("load", () => document.body.setAttribute("data-seen",
JSON.stringify([...document.images].map(image => image.naturalWidth))))</script></body>"""


def figures_of(notebook: Path) -> int:
    """How many figures the code of ``notebook`` saves or takes from those published."""
    cells = nbformat.read(notebook, as_version=4).cells
    return sum(len(re.findall(DRAWS, cell.source)) for cell in cells if cell.cell_type == "code")


def pictures_in(notebook: Path) -> int:
    cells = nbformat.read(notebook, as_version=4).cells
    return sum("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", []))


def given(name: str, out: Path) -> dict:
    return REDUCED[name] | {"out": str(out), "threads": 1}


def execute(name: str, out: Path, surroundings: dict) -> Path:
    """The chapter run as the study runs it: through a warm process if ``surroundings`` name one."""
    command = [sys.executable, "-I", "-S", "engine/client.py", "engine/execute.py", str(CHAPTERS[name])]
    command += [str(out / "notebook.ipynb"), "--parameters", json.dumps(given(name, out))]
    done = subprocess.run(command, cwd=ROOT, env=surroundings, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "notebook.ipynb"


def papermill(name: str, out: Path, surroundings: dict) -> Path:
    """The chapter run by plain papermill, from the notebooks' folder, as a reader does."""
    out.mkdir(parents=True)
    (out / "given.yaml").write_text(yaml.safe_dump(given(name, out)), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("papermill")), CHAPTERS[name].name, str(out / "notebook.ipynb")]
    command += ["-k", "python3", "-f", str(out / "given.yaml"), "--no-progress-bar"]
    done = subprocess.run(command, cwd=ROOT / "notebooks", env=surroundings, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "notebook.ipynb"


@pytest.fixture(scope="module", params=list(CHAPTERS))
def chapter(request):
    return request.param


@pytest.fixture(scope="module")
def warmed():
    """The surroundings of a job in a run's warm process; the user's own choice of a backend must not count."""
    with warm.process(environment(ROOT) | {"MPLBACKEND": "Agg"}, []) as found:
        yield found


@pytest.fixture(scope="module")
def executed(chapter, warmed, tmp_path_factory):
    return execute(chapter, tmp_path_factory.mktemp(chapter), warmed)


def test_run_by_the_warm_process_it_holds_its_figures(chapter, executed):
    assert pictures_in(executed) == figures_of(CHAPTERS[chapter]) > 0


@pytest.mark.parametrize("way", [papermill, execute])
@pytest.mark.parametrize(
    "name", [name if name[:2] == "02" else pytest.param(name, marks=pytest.mark.long) for name in CHAPTERS]
)
def test_run_by_papermill_or_by_a_cold_process_it_holds_its_figures(name, way, tmp_path):
    found = way(name, tmp_path / "elsewhere", environment(ROOT) | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"})
    assert pictures_in(found) == figures_of(CHAPTERS[name])


def test_as_stored_it_holds_its_figures(chapter):
    assert pictures_in(CHAPTERS[chapter]) == figures_of(CHAPTERS[chapter])


def test_it_has_no_link_that_depends_on_where_it_lies(chapter):
    for cell in nbformat.read(CHAPTERS[chapter], as_version=4).cells:
        links = re.findall(r"\]\(([^)]*)\)", cell.source) if cell.cell_type == "markdown" else []
        assert all("://" in link for link in links), links


def test_rendered_and_opened_in_a_browser_it_shows_every_picture(chapter, executed, tmp_path):
    if not CHROMIUM:
        pytest.skip("there is no Chromium on this machine to open the pages with (Debian: chromium)")
    page = tmp_path / "chapter.html"
    convert = [str(Path(sys.executable).with_name("jupyter")), "nbconvert", "--to", "html", "--output", str(page)]
    subprocess.run([*convert, str(executed)], check=True, capture_output=True, env=environment(ROOT))
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", SEEN), encoding="utf-8")
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    command = [CHROMIUM, "--headless", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--no-sandbox"] if os.getuid() == 0 else []
    page = [*command, "--virtual-time-budget=10000", "--dump-dom", page.as_uri()]
    shown = subprocess.run(page, capture_output=True, text=True, timeout=120).stdout
    widths = json.loads(re.search(r'data-seen="([^"]*)"', shown)[1])
    assert len(widths) == figures_of(CHAPTERS[chapter]) and min(widths) > 0
