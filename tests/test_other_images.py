"""Other images of the same sizes under the same name: the study must see them.

That a label counts as a pixel does, and both in every part, is held by their digest: test_data.py.
"""

import json
import re

import numpy as np
import pytest
from projects import copy_project, environment, study

from studylib.data import datasets

FILES = {"cifar10": "cifar10.npz", "images:data/my own: images.npz": "copy/data/my own: images.npz"}  # name → path
PROFILE = """
study: {dataset: "DATASET", stages: [svd], chapters: []}
teacher: {network: {depth: 7, growth: 2}, recipe: {epochs: 1, batch_size: 32}}
latency: {batch: 2, repeats: 1, compiled: false}
"""


def images(seed: int) -> dict[str, np.ndarray]:
    draw, labels = np.random.default_rng(seed), np.arange(120) % 10
    x = draw.integers(0, 256, (120, 32, 32, 3), np.uint8)
    return {"x_train": x[:100], "y_train": labels[:100], "x_test": x[100:], "y_test": labels[100:]}


@pytest.fixture(params=["cifar10", pytest.param(list(FILES)[1], marks=pytest.mark.long)])
def dataset(request):
    return request.param


@pytest.fixture
def file(dataset, tmp_path):
    return tmp_path / FILES[dataset]


@pytest.fixture
def project(tmp_path, monkeypatch, dataset, file):
    project = copy_project(tmp_path / "copy")
    (project / "papermill_params" / "other.yaml").write_text(PROFILE.replace("DATASET", dataset))
    monkeypatch.setenv("STUDY_DATA", str(tmp_path))
    file.parent.mkdir(exist_ok=True)
    np.savez(file, **images(0))
    return project


def planned(project) -> set[str]:
    result = study(project, "--profile", "other", "--", "-n")
    assert result.returncode == 0, result.stdout
    return set(re.findall(r"runs/other/seed0/(teacher[\w-]*)$", result.stdout, flags=re.M))


def test_one_changed_pixel_trains_everything_anew_and_the_same_images_nothing(project, dataset, file, tmp_path):
    assert environment(project)["STUDY_DATA"] == str(tmp_path)
    first = study(project, "--profile", "other", "--cores", "2")
    assert first.returncode == 0, first.stdout
    np.savez_compressed(file, **images(0))  # another file, the same images
    assert planned(project) == set()
    arrays = images(0)
    arrays["x_test"][3, 4, 5, 1] ^= 1
    np.savez(file, **arrays)
    assert planned(project) == {"teacher", "teacher-svd"}
    np.savez(file, **images(0))
    data = datasets.load(f"images:{file}" if "images" in dataset else dataset, 0)
    for node in ("teacher", "teacher-svd"):
        about = json.loads((project / f"runs/other/seed0/{node}/metrics.json").read_text())
        assert about["provenance"]["data_sha256"] == data.digest
        assert about["data"]["name"] == dataset
