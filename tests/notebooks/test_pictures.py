"""What a reader sees: each chapter, executed, shows its figures, however it was run and wherever it lies."""

import json
import subprocess
import sys
from pathlib import Path

import browser
import executed
import nbformat
import pytest
from executed import CHAPTERS, pictures_in, pictures_of
from projects import ROOT, environment


def execute(name: str, out: Path, surroundings: dict) -> Path:
    return executed.execute(name, out, executed.reduced(name, out), surroundings).passed().notebook


def papermill(name: str, out: Path, surroundings: dict) -> Path:
    """The chapter run by plain papermill, from the notebooks' folder, as a reader does."""
    (out / "given.yaml").write_text(json.dumps(executed.reduced(name, out)), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("papermill")), CHAPTERS[name].notebook.name]
    command += [str(out / "notebook.ipynb"), "-k", "python3", "-f", str(out / "given.yaml"), "--no-progress-bar"]
    done = subprocess.run(command, cwd=ROOT / "notebooks", env=surroundings, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out / "notebook.ipynb"


@pytest.fixture(scope="module", params=list(CHAPTERS))
def chapter(request):
    return request.param


def test_run_by_the_warm_process_it_holds_its_figures(chapter, reduced_run):
    found = pictures_in(reduced_run(chapter).notebook)
    assert found == pictures_of(CHAPTERS[chapter].notebook) and found[0] > 0


@pytest.mark.parametrize("way", [papermill, pytest.param(execute, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "name", [name if name[:2] == "02" else pytest.param(name, marks=pytest.mark.long) for name in CHAPTERS]
)
def test_run_by_papermill_or_by_a_cold_process_it_holds_its_figures(name, way, tmp_path):
    out = tmp_path / "elsewhere"
    out.mkdir()
    found = way(name, out, environment(ROOT) | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"})
    assert pictures_in(found) == pictures_of(CHAPTERS[name].notebook)


def test_as_stored_it_holds_its_figures(chapter):
    notebook = CHAPTERS[chapter].notebook
    assert pictures_in(notebook) == pictures_of(notebook)


def test_what_is_not_published_of_another_study_is_counted_as_a_sentence(tmp_path):
    def counted(*cells):
        made = [nbformat.v4.new_code_cell(cell) for cell in cells]
        nbformat.write(nbformat.v4.new_notebook(cells=made), tmp_path / "x.ipynb")
        return pictures_of(tmp_path / "x.ipynb")

    beside = 'other = Beside("figures/cifar10", "04_svd")\nother.figure("spectra", draw, "Spectra")\n'
    assert counted("chapter.figure('a', draw(rows), rows)", "if x:\n    chapter.figure('b', f, r)\nelse:\n    1") == (
        2,
        0,
    )
    assert counted(beside) == (1, 0)
    assert counted(beside, 'other.figure("spectra", draw, "Spectra", "no such rows")') == (1, 1)
    assert counted('other = Beside("figures/nowhere", "04_svd")\nother.figure("spectra", draw, "Spectra")') == (0, 1)
    assert counted(
        'report.show_published("files_beside_others", "All")', 'report.show_published("nothing", "None")'
    ) == (1, 1)


@pytest.mark.long
def test_rendered_and_opened_in_a_browser_it_shows_every_picture(chapter, reduced_run, chromium, tmp_path):
    page = tmp_path / "chapter.html"
    convert = [str(Path(sys.executable).with_name("jupyter")), "nbconvert", "--to", "html", "--output", str(page)]
    convert.append(str(reduced_run(chapter).notebook))
    subprocess.run(convert, check=True, capture_output=True, env=environment(ROOT))
    browser.open_page(chromium, page)
    widths = browser.pictures(chromium)
    assert len(widths) == pictures_of(CHAPTERS[chapter].notebook)[0] and min(widths) > 0
