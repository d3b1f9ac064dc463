"""What the unit tests share: the digits, and a few tiny models trained once a session."""

import dataclasses
import importlib.util
import resource
import subprocess
import sys

import browser
import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from hypothesis import settings
from projects import ROOT, environment

from studylib.data import datasets
from studylib.disk import files, provenance
from studylib.networks import spec
from studylib.results import style
from studylib.techniques import int8, teacher
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.tree import table
from studylib.tree.names import nodes

settings.register_profile("study", deadline=None, derandomize=True, max_examples=20, database=None)
settings.load_profile("study")

matplotlib.use("Agg")
SMALL = {"widths": [8, 12, 16], "hidden": [16, 12]}


@pytest.fixture(scope="session", autouse=True)
def _torch():
    loop.set_up(device="cpu")
    torch.set_num_threads(1)  # test.py runs two processes side by side


@pytest.fixture(scope="session")
def digits() -> datasets.Data:
    return datasets.load("digits", 0)


@pytest.fixture(scope="session")
def tiny(digits) -> datasets.Data:
    """The digits with 100 training and 50 validation images, for tests that train."""
    few = {"train": digits.train.take(slice(100)), "validation": digits.validation.take(slice(50))}
    return dataclasses.replace(digits, **few)


@pytest.fixture(scope="session")
def teacher_model(digits):
    """A DenseNet that gets most digits right. Shared: copy it before changing it."""
    recipe = Recipe(epochs=4, lr=5e-3, batch_size=64, augmentation="none")
    return teacher.apply(digits, depth=7, growth=8, recipe=recipe, seed=0)


@pytest.fixture(scope="session")
def student_model(digits):
    """A ConvNet that gets most digits right. Shared: copy it before changing it."""
    model = spec.create("convnet", 0, **digits.model_args, **SMALL)
    loop.fit(model, digits, Recipe(epochs=6, lr=1e-2, batch_size=32, augmentation="none"), seed=0)
    return model


@pytest.fixture(scope="session")
def int8_model(student_model, digits):
    """The ConvNet in int8. Shared: copy it before changing it."""
    return int8.apply(student_model, digits, calibration_images=128)


@pytest.fixture
def bfloat16(monkeypatch):
    """Trainings with amp compute in bfloat16 even where the processor has to emulate it."""
    monkeypatch.setattr(provenance, "has_bfloat16", lambda device: True)


@pytest.fixture
def new_student(digits):
    """Makes the same untrained small ConvNet at every call."""
    return lambda seed=0, **args: spec.create("convnet", seed, **{**digits.model_args, **SMALL, **args})


@pytest.fixture
def study_root(tmp_path, monkeypatch):
    """An empty folder that is the study's root for the length of a test."""
    monkeypatch.setenv("STUDY_ROOT", str(tmp_path))
    files.root.cache_clear()
    yield tmp_path
    files.root.cache_clear()


@pytest.fixture(scope="session")
def same_tensors():
    """Whether two models hold the same tensors, bit for bit, under the same names."""

    def same(a, b) -> bool:
        a, b = a.state_dict(), b.state_dict()
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    return same


@pytest.fixture
def trainings(monkeypatch):
    """Counts trainings from its call on: a list of their keyword arguments; the one after ``most`` is stopped."""
    fit = loop.fit

    def count(most=None) -> list[dict]:
        calls = []

        def counting(*args, **kwargs):
            if len(calls) == most:
                raise KeyboardInterrupt
            calls.append(kwargs)
            return fit(*args, **kwargs)

        monkeypatch.setattr(loop, "fit", counting)
        return calls

    return count


@pytest.fixture
def drawn():
    """Figures in the study's style, whatever was set before; they are closed after the test."""
    with plt.rc_context():
        style.style()
        yield
    plt.close("all")


@pytest.fixture(scope="session")
def texts():
    """All words of a figure, a line each."""

    def of(figure) -> str:
        figure.canvas.draw()
        return "\n".join(text.get_text() for text in figure.findobj(plt.Text))

    return of


@pytest.fixture(scope="session")
def rows_of_nodes():
    """A table of nodes as a run leaves it: each node smaller and worse than the one before, seeds a little apart."""

    def of(nodes, seeds=(0, 1)) -> pd.DataFrame:
        rows = []
        for seed in seeds:
            for i, node in enumerate(nodes):
                row = dict.fromkeys(table.COLUMNS, 0.5) | {"node": node, "seed": seed}
                sizes = {"bytes_file": 200_000 // (i + 1), "bytes_nonzero": 90_000 // (i + 1)}
                rows.append(row | sizes | {"test_accuracy": 0.95 - 0.01 * i + 0.004 * seed * (i > 0)})
        return pd.DataFrame(rows)

    return of


@pytest.fixture
def summary(rows_of_nodes) -> pd.DataFrame:
    """Of :func:`rows_of_nodes`, of all sixteen."""
    return table.summary(rows_of_nodes(nodes(["distill", "prune", "svd", "int8"])))


@pytest.fixture(scope="session")
def chromium():
    """A headless browser, as selenium's driver of it; tests are skipped where there is none."""
    driver = browser.start()
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """The folder of the book's pages, newly built, and how many seconds of a processor it took."""
    if not importlib.util.find_spec("sphinx"):
        pytest.skip("the extra book is not installed: make book installs it into .venv")
    folder = tmp_path_factory.mktemp("book")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, ROOT / "book" / "build.py", folder]
    done = subprocess.run(command, cwd=folder, env=environment(ROOT), text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith(f"{folder / 'html' / 'index.html'}: the book, in ")
    return folder / "html", after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
