import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib import latency, lowrank, models, prune, size, store
from studylib.train import Recipe

ARGS = {"in_channels": 1, "image_size": 8, "classes": 10}
COUNTS = {  # weights and biases of each layer of a ConvNet(widths=[2, 3, 4], hidden=[5, 6]), batch norm folded
    "features.0.conv": (9 * 1 * 2, 2),
    "features.2.conv": (9 * 2 * 3, 3),
    "features.4.conv": (9 * 3 * 4, 4),
    "fc1": (4 * 5, 5),
    "fc2": (5 * 6, 6),
    "fc3": (6 * 10, 10),
}
WEIGHTS, BIASES = (sum(pair[i] for pair in COUNTS.values()) for i in (0, 1))


@pytest.fixture
def small(new_student):
    return new_student(widths=[2, 3, 4], hidden=[5, 6])


def test_accountings_of_a_float_model_equal_a_count_by_hand(small):
    assert size.accountings(small) == {
        "parameters": WEIGHTS + BIASES,
        "nonzeros": WEIGHTS + BIASES,
        "bytes_dense": 4 * (WEIGHTS + BIASES),
        "bytes_nonzero": 4 * (WEIGHTS + BIASES),
        "bytes_sparse": 4 * (WEIGHTS + BIASES),
    }
    assert size.sparsity(small) == 0


def test_accountings_of_a_pruned_model_equal_a_count_by_hand(small):
    with torch.no_grad():
        small.fc3.weight[1:] = 0  # 6 of 60 live: CSR takes 4 · 11 + 6 · (1 + 4), a bitmap ⌈60 / 8⌉ + 6 · 4
        small.features[4].conv.weight[:, 0] = 0  # 72 of 108 live
    found = size.accountings(small)
    assert found["parameters"] == WEIGHTS + BIASES
    assert found["nonzeros"] == WEIGHTS - 54 - 36 + BIASES
    assert found["bytes_nonzero"] == 4 * found["nonzeros"] and found["bytes_dense"] == 4 * found["parameters"]
    assert found["bytes_sparse"] == 4 * (WEIGHTS + BIASES - 60 - 108) + (8 + 24) + (14 + 4 * 72)
    assert size.sparsity(small) == pytest.approx(90 / WEIGHTS)


def test_zeros_elsewhere_count_as_numbers(small):
    before = size.accountings(small)
    with torch.no_grad():
        small.fc1.bias.zero_()
    assert size.accountings(small) == before


def test_accountings_of_an_int8_model_equal_a_count_by_hand(int8_model):
    layers = models.weight_layers(int8_model).values()
    weights = sum(layer.weight.numel() for layer in layers)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    floats = sum(2 * len(layer.bias) + 1 for layer in layers)  # scales and biases; the scale of the input
    found = size.accountings(int8_model)
    assert found["parameters"] == weights + floats + 6  # a zero point a layer
    assert found["nonzeros"] == found["parameters"] - zeros
    assert found["bytes_dense"] == weights + 4 * floats + 6
    assert found["bytes_nonzero"] == found["bytes_dense"] - zeros
    assert size.sparsity(int8_model) == pytest.approx(zeros / weights)


def test_int8_takes_about_a_quarter(student_model, int8_model):
    ratio = size.accountings(int8_model)["bytes_dense"] / size.accountings(student_model)["bytes_dense"]
    assert 0.25 < ratio < 0.35


def test_a_factorized_model_is_smaller(student_model):
    assert size.accountings(lowrank.apply(student_model))["parameters"] < size.accountings(student_model)["parameters"]


def test_inventory_is_what_inference_needs(teacher_model):
    names = set(size.inventory(teacher_model))
    assert not [name for name in names if "norm" in name or "running" in name]
    assert names == {f"{n}.{what}" for n in models.weight_layers(teacher_model) for what in ("weight", "bias")}


TENSORS = st.builds(
    lambda shape, density, dtype, seed: (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density).to(
        dtype
    ),
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.int8]),
    st.integers(0, 99),
)


@given(tensor=TENSORS)
def test_sparse_bytes_are_between_the_nonzeros_and_dense(tensor):
    width, nonzeros = tensor.element_size(), int((tensor != 0).sum())
    found = size.sparse_bytes(tensor)
    assert nonzeros * width <= found <= tensor.numel() * width
    assert found <= math.ceil(tensor.numel() / 8) + nonzeros * width
    assert found == size.sparse_bytes(-tensor)


@pytest.mark.parametrize(
    ("shape", "live", "expected"),
    [
        ((4, 8), 32, 128),  # dense
        ((4, 8), 8, 4 + 8 * 4),  # bitmap
        ((2, 500), 3, 4 * 3 + 3 * (2 + 4)),  # CSR; more than 256 columns take two bytes an index
        ((2, 256), 3, 4 * 3 + 3 * (1 + 4)),
        ((2, 70_000), 3, 4 * 3 + 3 * (4 + 4)),
        ((2, 16, 16), 1, 4 * 3 + 1 * (1 + 4)),  # rows are the first dimension
        ((5,), 0, 1),
        ((), 1, 4),
    ],
)
def test_sparse_bytes_equal_hand_computed_values(shape, live, expected):
    tensor = torch.zeros(shape)
    tensor.view(-1)[:live] = 1
    assert size.sparse_bytes(tensor) == expected


def test_multiply_adds_equal_a_count_by_hand(small):
    expected = 64 * 9 * 1 * 2 + 16 * 9 * 2 * 3 + 4 * 9 * 3 * 4 + 4 * 5 + 5 * 6 + 6 * 10
    assert size.multiply_adds(small, ARGS) == expected
    with torch.no_grad():
        small.fc1.weight.zero_()
    assert size.multiply_adds(small, ARGS) == expected  # zeros count as any weight


def test_int8_computes_as_many_multiply_adds(student_model, int8_model, digits):
    found = [size.multiply_adds(model, digits.model_args) for model in (student_model, int8_model)]
    assert found[0] == found[1] > 0


def test_file_bytes_are_those_on_disk(small, tmp_path):
    store.save_model(tmp_path, small)
    (tmp_path / "metrics.json").write_text("not counted")
    files = [tmp_path / "model.safetensors", tmp_path / "model.json"]
    assert size.file_bytes(tmp_path) == sum(len(file.read_bytes()) for file in files)
    assert size.file_bytes(tmp_path) > size.accountings(small)["bytes_dense"]


def test_structure_tells_apart_what_runs_differently(student_model, int8_model, new_student, tiny):
    pruned = prune.apply(student_model, tiny, rounds=1, recipe=Recipe(epochs=0), seed=0, tolerance=1.0)
    assert latency.structure_of(pruned) == latency.structure_of(student_model) == latency.structure_of(new_student(3))
    others = [int8_model, lowrank.apply(student_model), lowrank.apply(student_model, delta=2)]
    others += [new_student(hidden=[16, 11]), student_model]
    assert len({latency.structure_of(model) for model in others}) == 5


def test_example_images_are_the_same_at_every_call():
    images = size.example(ARGS, 3)
    assert images.shape == (3, 1, 8, 8) and images.dtype == torch.float32
    assert torch.equal(images, size.example(ARGS, 3))


def test_peak_memory_covers_what_is_resident():
    with open("/proc/self/status") as file:
        resident = next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024
    assert size.peak_memory_mb() >= 0.9 * resident > 10
