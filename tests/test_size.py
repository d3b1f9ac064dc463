import json
import math

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib.coding import shipped, size
from studylib.experiments.svd import sparse_bytes
from studylib.networks import cost
from studylib.networks.layers import duplicate, fold_batch_norm, sparsity, weight_layers
from studylib.techniques import prune, svd
from studylib.training.recipe import Recipe

COUNTED = ("parameters", "nonzeros", "bytes_dense", "bytes_nonzero", "bytes_csr", "bytes_bitmap", "bytes_sparse")
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
    found = size.accountings(small)
    bitmaps = sum(math.ceil(weights / 8) for weights, _ in COUNTS.values())
    assert {name: found[name] for name in COUNTED} == {
        "parameters": WEIGHTS + BIASES,
        "nonzeros": WEIGHTS + BIASES,
        "bytes_dense": 4 * (WEIGHTS + BIASES),
        "bytes_nonzero": 4 * (WEIGHTS + BIASES),
        "bytes_csr": 4 * (WEIGHTS + BIASES) + WEIGHTS + 4 * (2 + 3 + 4 + 5 + 6 + 10 + 6),
        "bytes_bitmap": 4 * (WEIGHTS + BIASES) + bitmaps,
        "bytes_sparse": 4 * (WEIGHTS + BIASES),
    }
    assert sparsity(small) == 0


def test_accountings_of_a_pruned_model_equal_a_count_by_hand(small):
    with torch.no_grad():
        small.fc3.weight[1:] = 0  # 6 of 60 live: CSR takes 4 · 11 + 6 · (1 + 4), a bitmap ⌈60 / 8⌉ + 6 · 4
        small.features[4].conv.weight[:, 0] = 0  # 72 of 108 live
    found = size.accountings(small)
    assert found["parameters"] == WEIGHTS + BIASES
    assert found["nonzeros"] == WEIGHTS - 54 - 36 + BIASES
    assert found["bytes_nonzero"] == 4 * found["nonzeros"] and found["bytes_dense"] == 4 * found["parameters"]
    assert found["bytes_sparse"] == 4 * (WEIGHTS + BIASES - 60 - 108) + (8 + 24) + (14 + 4 * 72)
    assert sparsity(small) == pytest.approx(90 / WEIGHTS)


def test_zeros_elsewhere_count_as_numbers(small):
    before = size.accountings(small)
    with torch.no_grad():
        small.fc1.bias.zero_()
    after = size.accountings(small)
    assert {name: after[name] for name in COUNTED} == {name: before[name] for name in COUNTED}


def test_accountings_of_an_int8_model_equal_a_count_by_hand(int8_model):
    layers = weight_layers(int8_model).values()
    weights = sum(layer.weight.numel() for layer in layers)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    floats = sum(2 * len(layer.bias) + 1 for layer in layers)  # scales and biases; the scale of the input
    found = size.accountings(int8_model)
    assert found["parameters"] == weights + floats + 6  # a zero point a layer
    assert found["nonzeros"] == found["parameters"] - zeros
    assert found["bytes_dense"] == weights + 4 * floats + 6
    assert found["bytes_nonzero"] == found["bytes_dense"] - zeros
    assert sparsity(int8_model) == pytest.approx(zeros / weights)


def test_int8_takes_about_a_quarter(student_model, int8_model):
    ratio = size.accountings(int8_model)["bytes_dense"] / size.accountings(student_model)["bytes_dense"]
    assert 0.25 < ratio < 0.35


def test_a_factorized_model_is_smaller(student_model):
    assert size.accountings(svd.apply(student_model))["parameters"] < size.accountings(student_model)["parameters"]


def test_folding_leaves_what_inference_needs(teacher_model):
    names = set(fold_batch_norm(teacher_model).state_dict())
    assert not [name for name in names if "norm" in name or "running" in name]
    assert names == {f"{n}.{what}" for n in weight_layers(teacher_model) for what in ("weight", "bias")}


TENSORS = st.builds(
    lambda shape, density, dtype, seed: (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density).to(
        dtype
    ),
    st.lists(st.integers(1, 12), min_size=1, max_size=4),
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.int8]),
    st.integers(0, 99),
)


@given(tensor=TENSORS, bits=st.integers(2, 8))
def test_csr_bytes_are_a_count_by_hand(tensor, bits):
    nonzeros, rows = int((tensor != 0).sum()), len(tensor)
    index = 1 if tensor[0].numel() <= 256 else 2
    assert size.csr_bytes(tensor, bits) == 4 * (rows + 1) + nonzeros * index + math.ceil(nonzeros * bits / 8)


@pytest.mark.parametrize(
    ("shape", "live", "bits", "expected"),
    [
        ((2, 500), 3, 32, 4 * 3 + 3 * (2 + 4)),  # more than 256 columns take two bytes an index
        ((2, 256), 3, 32, 4 * 3 + 3 * (1 + 4)),
        ((2, 70_000), 3, 8, 4 * 3 + 3 * (4 + 1)),
        ((2, 16, 16), 1, 4, 4 * 3 + 1 + 1),  # rows are the first dimension; half a byte is a byte of the file
        ((), 1, 32, 4 * 2 + 1 + 4),
    ],
)
def test_csr_bytes_equal_hand_computed_values(shape, live, bits, expected):
    tensor = torch.zeros(shape)
    tensor.view(-1)[:live] = 1
    assert size.csr_bytes(tensor, bits) == expected


@pytest.mark.parametrize(
    ("shape", "live", "expected"),
    [((4, 8), 32, 128), ((4, 8), 8, 4 + 8 * 4), ((2, 500), 3, 4 * 3 + 3 * (2 + 4)), ((5,), 0, 1), ((), 1, 4)],
)
def test_sparse_bytes_are_those_of_the_cheapest_way(shape, live, expected):
    """Dense, a bitmap, CSR, nothing at all, a single number."""
    tensor = torch.zeros(shape)
    tensor.view(-1)[:live] = 1
    assert sparse_bytes(tensor) == expected


def test_the_cheapest_way_is_taken_for_each_tensor(small):
    with torch.no_grad():
        small.fc3.weight[1:] = 0
    found = size.accountings(small)
    assert found["bytes_sparse"] < min(found["bytes_dense"], found["bytes_csr"], found["bytes_bitmap"])
    assert found["bytes_nonzero"] < found["bytes_sparse"]


def test_few_bits_a_weight_take_few_bytes(int8_model):
    model = duplicate(int8_model)
    for layer in weight_layers(model).values():
        layer.bits = 4
    full, half = size.accountings(int8_model), size.accountings(model)
    assert full["bytes_dense"] - half["bytes_dense"] == sum(
        layer.weight.numel() // 2 for layer in weight_layers(model).values()
    )
    assert half["bytes_nonzero"] < full["bytes_nonzero"] and half["bytes_entropy"] == full["bytes_entropy"]


def test_the_safetensors_file_opens_and_zstd_gives_it_back(student_model):
    as_shipped = shipped.apply(student_model)
    file = safetensors.torch.save(as_shipped.state_dict(), {"spec": json.dumps(as_shipped.spec)})
    assert safetensors.torch.load(file).keys() == as_shipped.state_dict().keys()
    found = size.accountings(student_model)
    assert found["bytes_safetensors"] == len(file) > found["bytes_zstd"] > 0.8 * len(file)  # floats hardly shrink


def test_the_entropy_bound_equals_a_count_by_hand(int8_model):
    model = duplicate(int8_model)
    numbers = 0
    for layer in weight_layers(model).values():
        layer.weight.zero_()
        numbers += 4 * (2 * len(layer.bias) + 1) + 1
    assert size.entropy_bound(model) == numbers  # nothing but zeros: nothing to say of the weights
    weight = model.fc3.weight  # (10, 12): 4 live of 120, two values evenly
    weight.view(-1)[:4] = torch.tensor([5, 5, -7, -7], dtype=torch.int8)
    positions = -4 * math.log2(4 / 120) - 116 * math.log2(116 / 120)
    assert size.entropy_bound(model) == math.ceil(numbers + (positions + 4) / 8)


def test_float_weights_count_at_their_width_in_the_entropy_bound(small):
    folded = fold_batch_norm(small)
    assert size.entropy_bound(folded) == 4 * (WEIGHTS + BIASES)


def test_multiply_adds_equal_a_count_by_hand(small):
    expected = 64 * 9 * 1 * 2 + 16 * 9 * 2 * 3 + 4 * 9 * 3 * 4 + 4 * 5 + 5 * 6 + 6 * 10
    assert cost.multiply_adds(small, ARGS) == expected
    with torch.no_grad():
        small.fc1.weight.zero_()
    assert cost.multiply_adds(small, ARGS) == expected  # zeros count as any weight


def test_int8_computes_as_many_multiply_adds(student_model, int8_model, digits):
    found = [cost.multiply_adds(model, digits.model_args) for model in (student_model, int8_model)]
    assert found[0] == found[1] > 0


def test_structure_tells_apart_what_runs_differently(student_model, int8_model, new_student, tiny):
    pruned = prune.apply(student_model, tiny, rounds=1, recipe=Recipe(epochs=0), seed=0, tolerance=1.0)
    assert cost.structure_of(pruned) == cost.structure_of(student_model) == cost.structure_of(new_student(3))
    others = [int8_model, svd.apply(student_model), svd.apply(student_model, delta=2)]
    others += [new_student(hidden=[16, 11]), student_model]
    assert len({cost.structure_of(model) for model in others}) == 5


def test_example_images_are_the_same_at_every_call():
    images = cost.example(ARGS, 3)
    assert images.shape == (3, 1, 8, 8) and images.dtype == torch.float32
    assert torch.equal(images, cost.example(ARGS, 3))


def test_peak_memory_covers_what_is_resident():
    with open("/proc/self/status") as file:
        resident = next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024
    assert cost.peak_memory_mb() >= 0.9 * resident > 10
