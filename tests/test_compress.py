"""Networks of one's own as files: any tensors there and back, the command, and the wheel that decodes."""

import importlib.metadata
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tracemalloc
import venv
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from projects import ROOT
from torch import nn
from torch.nn.utils import prune

from studylib import coding
from studylib.coding import codec, state
from studylib.coding.codec import CodecError
from studylib.data import datasets, scoring
from studylib.networks import grid, spec
from studylib.networks.spec import normalize
from studylib.tree import compress as command

TYPES = ("float32", "float16", "bfloat16", "float64", "complex64", "int64", "int32", "int8", "uint8", "bool")
SHAPES = ((), (0,), (3, 0), (1,), (7,), (2, 3), (3, 2, 2, 2), (1, 300))


def bits(tensor):
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def held(module):
    """Every tensor of a module, also those that its state_dict leaves out."""
    return module.state_dict() | dict(module.named_buffers(remove_duplicate=False))


def same(one, other):
    one, other = held(one), held(other)
    return one.keys() == other.keys() and all(torch.equal(bits(one[name]), bits(other[name])) for name in one)


def normed(module, seed=0):
    """``module`` with statistics in its batch norms that training could have left."""
    draw = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean.normal_(generator=draw)
            layer.running_var.uniform_(0.5, 2, generator=draw)
            layer.num_batches_tracked.fill_(1234)
    return module.eval()


def small(seed=0, classes=10):
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()
    return normed(nn.Sequential(*layers, nn.Linear(6 * 64, 12), nn.ReLU(), nn.Linear(12, classes)))


class Odd(nn.Module):
    """Tensors of any type and shape, drawn from all bits there are: NaN, infinities and subnormals among them."""

    def __init__(self, kinds, seed):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        for i, (name, shape, persistent) in enumerate(kinds):
            dtype = getattr(torch, name)
            count = torch.zeros(shape, dtype=dtype).numel()
            raw = torch.randint(0, 256, (count * torch.zeros((), dtype=dtype).itemsize,), generator=draw).to(
                torch.uint8
            )
            raw = raw % 2 if name == "bool" else raw * (torch.rand(raw.shape, generator=draw) < 0.8)
            self.register_buffer(f"{name}_{i}", raw.view(dtype).reshape(shape).clone(), persistent=persistent)


KINDS = st.lists(st.tuples(st.sampled_from(TYPES), st.sampled_from(SHAPES), st.booleans()), max_size=6)


@given(
    kinds=KINDS, seed=st.integers(0, 999), weights=st.sampled_from(state.WEIGHTS), sparsity=st.sampled_from([0, 0.5])
)
def test_tensors_of_any_type_and_shape_come_back_bit_for_bit(kinds, seed, weights, sparsity):
    module = Odd(kinds, seed)
    made = coding.compress(module, weights=weights, sparsity=sparsity)
    skeleton = Odd(kinds, seed + 1)
    assert coding.decode(made.file, skeleton) is skeleton and same(skeleton, module)
    assert [row["name"] for row in made.rows] == list(held(module)) and not any(row["changed"] for row in made.rows)


def test_signed_zeros_and_what_is_not_finite_come_back():
    module = nn.BatchNorm1d(6)
    module.weight.data = torch.tensor([-0.0, 0.0, torch.nan, torch.inf, -torch.inf, 1e-45])
    assert same(coding.decode(coding.compress(module).file, nn.BatchNorm1d(6)), module)


def test_of_a_weight_s_zero_the_sign_alone_is_lost():
    module = small()
    module[4].weight.data *= torch.rand(12, 384, generator=torch.Generator().manual_seed(1)) < 0.3
    assert (bits(module[4].weight).view(-1, 4) == torch.tensor([0, 0, 0, 128])).all(1).any()  # there are -0.0
    decoded = coding.decode(coding.compress(module).file, small(1))
    assert torch.equal(decoded[4].weight, module[4].weight) and not same(decoded, module)
    decoded[4].weight.data = torch.where(decoded[4].weight == 0, module[4].weight, decoded[4].weight)
    assert same(decoded, module)


def test_int8_is_the_rounding_of_each_row_and_leaves_the_rest_alone():
    module = small()
    module[4].weight.data[3] = 0
    made = coding.compress(module, weights="int8")
    decoded = coding.decode(made.file, small(1))
    rounded = [row["name"] for row in made.rows if row["how"] == "int8"]
    assert rounded == [row["name"] for row in made.rows if row["changed"]] == ["0.weight", "4.weight", "6.weight"]
    for name, tensor in module.state_dict().items():
        expected = grid.rounded_weight(tensor, 8) if name in rounded else tensor
        assert torch.equal(decoded.state_dict()[name], expected), name
    assert same(module, small()) is False and torch.equal(module[6].weight, small()[6].weight)  # left as it was


@given(sparsity=st.floats(0.01, 0.99), weights=st.sampled_from(state.WEIGHTS))
def test_pruning_takes_the_smallest_weights_of_all_layers_together(sparsity, weights):
    reference = small()
    layers = [reference[i] for i in (0, 4, 6)]
    prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=sparsity)
    for layer in layers:
        prune.remove(layer, "weight")
    decoded = coding.decode(coding.compress(small(), weights=weights, sparsity=sparsity).file, small(1))
    for layer, other in zip(layers, [decoded[i] for i in (0, 4, 6)], strict=True):
        expected = grid.rounded_weight(layer.weight, 8) if weights == "int8" else layer.weight
        assert torch.equal(other.weight, expected)


def test_zeros_and_integers_make_the_file_small():
    sizes = [len(coding.compress(small(), **how).file) for how in (
        {}, {"weights": "int8"}, {"sparsity": 0.9}, {"weights": "int8", "sparsity": 0.9})]  # fmt: skip
    before = sum(row["before"] for row in coding.compress(small()).rows)
    assert before > sizes[0] > sizes[1] > sizes[2] > sizes[3] and sizes[1] < 0.3 * before and sizes[3] < 0.1 * before


def test_rows_account_for_every_byte_but_those_of_the_list():
    made = coding.compress(normed(torchvision.models.squeezenet1_1()), weights="int8")
    assert 0 < len(made.file) - sum(row["bytes"] for row in made.rows) < 600
    assert sum(row["before"] for row in made.rows) == 4 * 1_235_496


def test_rows_count_the_zeros_of_weights():
    made = coding.compress(small(), weights="int8", sparsity=0.7)
    decoded = coding.decode(made.file, small(1)).state_dict()
    zeros = {row["name"]: row["zeros"] for row in made.rows}
    assert zeros == {name: int((t == 0).sum()) if row["changed"] else 0 for (name, t), row in
                     zip(decoded.items(), made.rows, strict=True)}  # fmt: skip
    assert sum(zeros.values()) >= round(0.7 * (54 + 384 * 12 + 120))


class Tied(nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.raw, self.float32 = nn.Embedding(40, 30), nn.Linear(30, 40)  # named as ways to code are
        if tied:
            self.float32.weight = self.raw.weight


@pytest.mark.parametrize("weights", state.WEIGHTS)
def test_a_weight_that_two_layers_share_is_in_the_file_once(weights):
    made = coding.compress(Tied(), weights=weights)
    rows = {row["name"]: row for row in made.rows}
    assert rows["float32.weight"]["how"] == "as raw.weight" and rows["float32.weight"]["bytes"] == 0
    assert len(made.file) < 0.6 * len(coding.compress(Tied(False), weights=weights).file)
    for skeleton in (Tied(), Tied(False)):
        coding.decode(made.file, skeleton)
        assert torch.equal(skeleton.raw.weight, skeleton.float32.weight)


def test_two_weights_are_not_put_into_one_that_the_skeleton_shares():
    module, skeleton = Tied(False), Tied()
    before = skeleton.raw.weight.detach().clone()
    with pytest.raises(CodecError, match="are one tensor in the skeleton: the file has two that differ"):
        coding.decode(coding.compress(module).file, skeleton)
    assert torch.equal(skeleton.raw.weight, before)
    module.float32.weight.data = module.raw.weight.detach().clone()
    assert same(coding.decode(coding.compress(module).file, skeleton), module)


def test_weights_of_layers_that_are_known_are_rounded_and_others_say_why():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.up, self.lstm = nn.Conv1d(4, 6, 3), nn.ConvTranspose3d(4, 6, 2), nn.LSTM(5, 7)
            self.attention, self.bag = nn.MultiheadAttention(8, 2), nn.EmbeddingBag(9, 4)
            self.token, self.half, self.norm = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(4, 4).half(), nn.LayerNorm(
                (2, 3))  # fmt: skip
            self.broken = nn.Linear(3, 3)
            self.broken.weight.data[0, 0] = torch.inf
            prune.identity(self.conv, "weight")  # leaves weight_orig, and a buffer weight_mask

    module = Mixed()
    made = coding.compress(module, weights="int8", sparsity=0.3)
    changed = {row["name"] for row in made.rows if row["how"] == "int8"}
    lstm, attention = (
        {"lstm.weight_ih_l0", "lstm.weight_hh_l0"},
        {"attention.in_proj_weight", "attention.out_proj.weight"},
    )
    assert changed == {"conv.weight_orig", "up.weight", "bag.weight", *lstm, *attention}
    assert {row["name"]: row["why"] for row in made.rows if row["why"]} == {
        "token": "no weight of a layer that is known (Mixed)",
        "conv.weight_mask": "no weight of a layer that is known (Conv1d)",
        "half.weight": "float16, not float32",
        "norm.weight": "no weight of a layer that is known (LayerNorm)",
        "norm.bias": "no weight of a layer that is known (LayerNorm)",
        "broken.weight": "a number not finite, or beyond 1e+38",
    }
    decoded = coding.decode(made.file, Mixed())
    assert all(torch.equal(decoded.state_dict()[n], t) for n, t in module.state_dict().items() if n not in changed)


def test_numbers_that_integers_could_not_hold_stay_as_they_are():
    module = nn.Linear(2, 2)
    module.weight.data = torch.tensor([[3.4e38, 1.0], [1e-40, 0.0]])
    assert same(coding.decode(coding.compress(module, weights="int8").file, nn.Linear(2, 2)), module)
    module.weight.data[0, 0] = 9e37
    decoded = coding.decode(coding.compress(module, weights="int8").file, nn.Linear(2, 2))
    assert decoded.weight.isfinite().all() and decoded.weight[0, 0].item() == pytest.approx(9e37, rel=1 / 254)


LONG = [pytest.param(name, marks=pytest.mark.long) for name in ("mobilenet_v2", "resnet18")]


@pytest.mark.parametrize("name", ["squeezenet1_1", *LONG])
def test_standard_networks_come_back_with_the_same_outputs(name):
    torch.manual_seed(0)
    build = getattr(torchvision.models, name)
    module, images = normed(build()), torch.randn(2, 3, 64, 64)
    made = coding.compress(module)
    decoded = coding.decode(made.file, build())
    assert same(decoded, module) and not decoded.training
    with torch.no_grad():
        assert torch.equal(decoded(images), module(images))
        near = coding.decode(coding.compress(module, weights="int8").file, build())(images)
        assert (near - module(images)).norm() < 0.03 * module(images).norm()
    assert len(made.file) < 0.9 * sum(row["before"] for row in made.rows)


def test_a_network_without_tensors_is_a_file_too():
    assert coding.decode(coding.compress(nn.ReLU()).file, nn.ReLU()) is not None


@pytest.mark.parametrize(
    ("skeleton", "message"),
    [
        (lambda: small(classes=9), r"6.weight is float32 \(10, 12\) in the file, float32 \(9, 12\) in the skel"),
        (lambda: small().double(), r"0.weight is float32 \(6, 1, 3, 3\) in the file, float64 .*; and 4 more"),
        (lambda: small()[:6], r"6.weight is float32 \(10, 12\) in the file, missing in the skeleton; 6.bias"),
        (lambda: nn.Sequential(*small(), nn.Linear(10, 2)), r"7.weight is missing in the file, float32 \(2, 10\) in"),
        (lambda: small().to("meta"), "0.weight has no numbers yet: expected a network in memory"),
    ],
)  # fmt: skip
def test_a_skeleton_of_other_tensors_is_refused_by_name_and_left_alone(skeleton, message):
    skeleton = skeleton()
    before = {name: tensor.clone() for name, tensor in skeleton.state_dict().items()}
    with pytest.raises(CodecError, match=message):
        coding.decode(coding.compress(small(1)).file, skeleton)
    assert all(t.is_meta or torch.equal(before[name], t) for name, t in skeleton.state_dict().items())


class Extra(nn.Module):
    def get_extra_state(self):
        return {"step": 3}

    def set_extra_state(self, state):
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("module", "how", "message"),
    [
        (small, {"weights": "int4"}, "weights='int4': expected one of float32, int8"),
        (small, {"sparsity": 1}, "sparsity=1: expected a share from 0 to below 1"),
        (small, {"sparsity": float("nan")}, "sparsity=nan: expected a share"),
        (lambda: nn.LazyLinear(3), {}, "weight has no numbers yet: expected .* lazy layers run once"),
        (lambda: small().to("meta"), {}, "0.weight has no numbers yet"),
        (Extra, {}, "_extra_state is dict: expected a tensor"),
    ],
)  # fmt: skip
def test_what_cannot_be_compressed_is_refused_in_words(module, how, message):
    with pytest.raises(ValueError, match=message):
        coding.compress(module(), **how)


def test_a_sparse_buffer_is_refused_in_words():
    module = nn.Module()
    module.register_buffer("edges", torch.eye(3).to_sparse())
    with pytest.raises(
        CodecError, match=r"edges is torch.float32, torch.sparse_coo: expected numbers in a dense tensor"
    ):
        coding.compress(module)


FILE = coding.compress(small(), weights="int8", sparsity=0.5).file


def signed(body: bytes) -> bytes:
    """``body`` with the checksum that belongs to it."""
    return body + struct.pack("<I", zlib.crc32(body))


def with_list(change) -> bytes:
    """The file with another list of tensors; its numbers are the same."""
    magic, version, deflated, _, *edges = state.HEAD.unpack_from(FILE)
    listed = FILE[state.HEAD.size : state.HEAD.size + deflated]
    plain = change(json.loads(zlib.decompress(listed)))
    plain = plain if isinstance(plain, bytes) else json.dumps(plain).encode()
    new = zlib.compress(plain)
    head = state.HEAD.pack(magic, version, len(new), len(plain), *edges)
    return signed(head + new + FILE[state.HEAD.size + deflated : -4])


def test_the_list_in_a_file_holds_names_types_shapes_and_ways_and_nothing_else():
    seen = []
    assert with_list(lambda entries: seen.extend(entries) or entries)
    assert [name for name, *_ in seen] == list(small().state_dict())
    assert all(dtype in TYPES and how in ("int8", "float32", "raw") for _, dtype, _, how in seen)


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
def test_a_byte_changed_anywhere_is_noticed(place, by):
    file = bytearray(FILE)
    file[place] ^= by
    with pytest.raises(CodecError):
        coding.decode(bytes(file), small())


@given(st.integers(0, len(FILE) - 1))
def test_a_file_cut_short_is_noticed(length):
    with pytest.raises(CodecError):
        coding.decode(FILE[:length], small())


@given(st.integers(0, len(FILE) - 5), st.integers(1, 255), st.integers(0, 9))
def test_a_hostile_file_gives_one_error_or_numbers_of_the_right_shape(place, by, cut):
    body = bytearray(FILE[:-4])
    body[place] ^= by
    skeleton = small()
    try:
        coding.decode(signed(bytes(body[: len(body) - 4 * cut])), skeleton)
    except CodecError:
        assert same(skeleton, small())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: [[n, d, [2**40], w] for n, d, _, w in e], r"0.weight is float32 \(1099511627776,\) in the file"),
        (lambda e: e[1:], "0.weight is missing in the file"),
        (lambda e: [*e, e[0]], "expected each name once"),
        (lambda e: [[["os"], d, s, w] for _, d, s, w in e], "the list of tensors is damaged: unhashable"),
        (lambda e: [[n, 7, s, w] for n, _, s, w in e], r"0.weight is 7 \(6, 1, 3, 3\) in the file"),
        (lambda e: [[n, d, s, 7] for n, d, s, _ in e], "expected each name once, and ways in words"),
        (lambda e: [[n, d, "6133", w] for n, d, _, w in e], r"0.weight is float32 \('6', '1', '3', '3'\) in the file"),
        (lambda e: [[n, d, [6.0, 1, 3, 3], w] for n, d, _, w in e], r"0.weight is float32 \(6.0, 1, 3, 3\) in the"),
        (lambda e: [[n, d, s] for n, d, s, _ in e], "the list of tensors is damaged"),
        (lambda e: 12, "the list of tensors is damaged"),
        (lambda e: b"[" * 100_000, "the list of tensors is damaged"),
        (lambda e: b"\xff", "the list of tensors is damaged"),
        (lambda e: [[n, d, s, "pickle"] for n, d, s, _ in e], "0.weight is coded as 'pickle': there is no such way"),
        (lambda e: [[n, d, s, "int8"] for n, d, s, _ in e], "1.weight is coded as 'int8': there is no such way"),
        (lambda e: [[n, d, s, "as 0.weight"] for n, d, s, _ in e], "0.weight is coded as 'as 0.weight'"),
        (lambda e: [[n, d, s, "float32" if d == "float32" else w] for n, d, s, w in e], "damaged"),
    ],
)  # fmt: skip
def test_a_list_that_no_encoder_wrote_is_refused_before_anything_is_allocated(change, message):
    with pytest.raises(CodecError, match=message):
        coding.decode(with_list(change), small())


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e38, float("nan"), float("inf")])
def test_a_scale_that_no_rounding_gives_is_refused(monkeypatch, scale):
    monkeypatch.setattr(state, "_round", lambda w: (np.ones(w.shape, np.int8), np.full(len(w), scale, np.float32)))
    with pytest.raises(CodecError, match=r"0\.weight has a scale that no rounding gives"):
        coding.compress(small(), weights="int8")


@pytest.mark.parametrize("said", [100, state.MOST_LIST])
def test_a_list_that_inflates_without_end_takes_little_memory(said):
    bomb = zlib.compress(b"[" * 50_000_000)
    file = signed(state.HEAD.pack(b"SLNS", 1, len(bomb), said, 0, 0, 0) + bomb)
    tracemalloc.start()
    with pytest.raises(CodecError, match="the list of tensors is damaged"):
        coding.decode(file, small())
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_files_of_another_kind_or_version_are_named():
    with pytest.raises(CodecError, match="not a compressed network: it starts with b'PK"):
        coding.decode(b"PK" + bytes(100), small())
    with pytest.raises(CodecError, match=r"a model of the study: .*; coding\.codec\.decode reads it"):
        coding.decode(codec.encode(spec.create("convnet", 0, in_channels=1, image_size=8)), small())
    with pytest.raises(CodecError, match=r"a network of your own .*; coding\.decode reads it"):
        codec.decode(FILE)
    with pytest.raises(TypeError, match=r"str: expected an nn\.Module"):
        coding.compress("resnet18")
    with pytest.raises(CodecError, match="version 9: this studylib reads version 1"):
        coding.decode(signed(FILE[:4] + b"\x09" + FILE[5:-4]), small())
    with pytest.raises(TypeError, match=r"str, Sequential: expected bytes and an nn\.Module"):
        coding.decode("x.slns", small())
    with pytest.raises(CodecError, match="the header does not fit the file"):
        coding.decode(signed(state.HEAD.pack(b"SLNS", 1, 2**31, 2**31, 0, 0, 0)), small())


NETWORK = """
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

def build():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10))

def narrow():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))

def maps():
    return nn.Conv2d(1, 3, 1)

def nothing():
    return nn.ReLU()

def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))

class Pair(nn.Linear):
    def __init__(self):
        super().__init__(8, 10)

    def forward(self, x):
        return x, x

def broken():
    raise RuntimeError("no such luck")

def text():
    return "net"

ready = build()
number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of the user's with ``mynet.py``, from which the command is run."""
    (tmp_path / "mynet.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mynet", None)


def run(network="mynet:build", **given):
    options = {"weights": "", "images": "", "forms": [*command.FORMS], "sparsity": 0.5, "mean": None, "std": None}
    options["out"] = Path("files")
    command.run(network, **options | given)


def test_the_command_writes_files_whose_bytes_and_accuracy_it_prints(here, capsys, digits):
    model = command.built("mynet:build")
    for x, y, _ in datasets.batches(digits, 600, torch.Generator(), False):
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    torch.save(model.state_dict(), "weights.pt")
    run(weights="weights.pt", images="digits", sparsity=0.8)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line and line.split()[0] in ("as", *command.FORMS)}
    right = scoring.accuracy(model, digits.test, digits)
    assert right > 0.8 and rows["as"][-1] == rows["float32"][2] == f"{right:.2%}"
    for form, (weights, pruned) in command.FORMS.items():
        file = (here / "files" / f"mynet.build.{form}.slns").read_bytes()
        assert file == coding.compress(model, weights=weights, sparsity=0.8 * pruned).file
        decoded = coding.decode(file, command.built("mynet:build"))
        share = scoring.accuracy(decoded, digits.test, digits)
        assert rows[form][:3] == [f"{len(file):,}", f"{len(file) / 15_744:.1%}", f"{share:.2%}"]
    assert rows["pruned"][3:] == ["80%", "of", "what", "can", "be", "pruned", "is", "zero"]
    layer = next(line.split() for line in lines if line.startswith("1 "))
    assert (
        layer[:3] == ["1", "BatchNorm2d", "weight,"] and layer[-5] == "104"
    )  # 4 × 6 numbers, and the count of batches
    assert "not rounded and not pruned, for want of support: nothing" in lines
    assert not [line for line in lines if line.startswith("nothing but zeros")]


def test_a_layer_that_pruning_leaves_without_a_weight_is_named(here, capsys):
    (here / "faint.py").write_text(
        "from torch import nn\ndef build():\n    net = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))\n"
        "    net[1].weight.data *= 1e-3\n    return net\n"
    )
    run("faint:build", forms=["int8", "pruned-int8"])
    out = capsys.readouterr().out
    assert "\nnothing but zeros in pruned-int8: 1.weight\n" in out and "zeros in int8" not in out


def test_what_is_not_supported_is_in_the_file_and_printed(here, capsys):
    (here / "other.py").write_text("from torch import nn\ndef build():\n    return nn.LayerNorm((3, 4)).half()\n")
    run("other:build", forms=["int8"])
    assert "\n  weight (24 bytes): no weight of a layer that is known (LayerNorm)\n" in capsys.readouterr().out


def npz(path, shape, classes=10, seed=0):
    rng = np.random.default_rng(seed)
    parts = {"train": 60, "test": 40}
    arrays = {f"x_{part}": rng.integers(0, 256, (n, *shape)).astype(np.uint8) for part, n in parts.items()}
    np.savez(path, **arrays, **{f"y_{part}": np.arange(n) % classes for part, n in parts.items()})
    return arrays


def test_pixels_of_a_data_set_are_normalized_as_a_study_normalizes_them(digits):
    test, (mean, std) = command.test_images("digits")
    assert torch.equal(test.images, digits.test.images)
    assert torch.equal(mean, digits.mean) and torch.equal(std, digits.std)


def test_pixels_are_normalized_by_the_training_images_or_as_is_asked(here, capsys):
    arrays = npz("images.npz", (8, 8, 1))
    test, (mean, std) = command.test_images("images.npz")
    pixels = arrays["x_train"] / 255
    assert len(test) == 40 and mean.item() == pytest.approx(pixels.mean()) and std.item() == pytest.approx(pixels.std())
    run(images="images.npz", forms=["int8"], mean=[0.5], std=[0.25])
    model = command.built("mynet:build").eval()
    with torch.no_grad():
        found = model((torch.from_numpy(arrays["x_test"]).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25).argmax(1)
    share = (found == torch.arange(40) % 10).double().mean()
    out = capsys.readouterr().out
    assert f"{share:.2%}" in out and "the 40 test images of images.npz; pixels / 255, less 0.5, over 0.25" in out


def saved(path, content):
    torch.save(content, path)
    return path


@pytest.mark.parametrize("how", ["safetensors", "torch", "nested"])
def test_weights_come_from_either_kind_of_file(here, how):
    model = command.built("mynet:build")
    weights = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    if how == "safetensors":
        safetensors.torch.save_file(weights, "weights")
    else:
        saved("weights", weights if how == "torch" else {"epoch": 3, "state_dict": weights})
    command.load(model, "weights")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_a_file_may_hold_what_two_layers_share_once(here):
    model = command.built("mynet:Tied")
    safetensors.torch.save_model(model, "weights")
    other = command.built("mynet:Tied")
    command.load(other, "weights")
    assert torch.equal(other.second.weight, model.first.weight) and same(other, model)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("ran",)


WRONG = {
    "no colon": ({"network": "mynet"}, "NETWORK=mynet: expected module:build, such as torchvision.models:resnet18"),
    "nothing": ({"network": ""}, "NETWORK=: expected module:build"),
    "no module": ({"network": "absent:build"}, "NETWORK=absent:build: ModuleNotFoundError: No module named 'absent'"),
    "no name": ({"network": "mynet:biuld"}, "NETWORK=mynet:biuld: AttributeError: module 'mynet' has no attribute 'b"),
    "raises": ({"network": "mynet:broken"}, r"NETWORK=mynet:broken: broken\(\) raised RuntimeError: no such luck"),
    "arguments": ({"network": "torch.nn:Linear"}, r"Linear\(\) raised TypeError: .*missing 2 required"),
    "no network": ({"network": "mynet:text"}, r"text\(\) returned str: expected a torch.nn.Module"),
    "made already": ({"network": "mynet:ready"}, "ready is Sequential: expected a function without arguments"),
    "a number": ({"network": "mynet:number"}, "number is int: expected a function without arguments"),
    "no weights": ({"weights": "absent.pt"}, "WEIGHTS=absent.pt: No such file or directory"),
    "a folder": ({"weights": "."}, "WEIGHTS=.: Is a directory"),
    "others": ({"weights": "narrow.pt"}, r"WEIGHTS=narrow.pt: 0.weight is missing in the file, \(6, 1, 3, 3\) in"),
    "no tensors": ({"weights": "list.pt"}, "WEIGHTS=list.pt: expected dense tensors by name, or these under the nam"),
    "a pickle": ({"weights": "hostile.pt"}, r"WEIGHTS=hostile.pt: not tensors alone \(UnpicklingError\); expected"),
    "empty": ({"weights": "empty"}, r"WEIGHTS=empty: not tensors alone \(EOFError\); expected a safetensors"),
    "damaged": ({"weights": "damaged"}, r"WEIGHTS=damaged: not tensors alone \(SafetensorError\)"),
    "no images": ({"images": "absent.npz"}, "absent.npz"),
    "colours": ({"images": "rgb.npz"}, r"IMAGES=rgb.npz: on images of 3 × 8 × 8 \(channels × h × w\) the network"),
    "larger": ({"images": "large.npz"}, "IMAGES=large.npz: on images of 1 × 9 × 8 .* raised RuntimeError: .*mat1"),
    "classes": ({"images": "grey.npz", "network": "mynet:narrow"}, r"outputs of shape \(40, 9\): expected n × classes"),
    "maps": ({"images": "grey.npz", "network": "mynet:maps"}, r"outputs of shape \(40, 3, 8, 8\): expected n × cl"),
    "sparsity": ({"sparsity": 80.0}, "SPARSITY=80.0: expected a share from 0 to below 1, such as 0.8 for 80 %"),
    "no images, a mean": ({"mean": [0.5]}, r"MEAN=\[0.5\] STD=None: pixels are normalized by them"),
    "sparsity, all": ({"sparsity": 1}, "SPARSITY=1: expected a share"),
    "no tensors in it": ({"network": "mynet:nothing"}, "NETWORK=mynet:nothing: it has no weights and no buffers"),
    "not yet there": ({"network": "mynet:lazy", "images": "grey.npz"}, "no numbers yet"),
    "sparse": ({"weights": "sparse.pt"}, "WEIGHTS=sparse.pt: expected dense tensors by name"),
    "untied": ({"weights": "untied.pt", "network": "mynet:Tied"}, "untied.pt: .*weight is tied to another tensor: exp"),
    "not finite": ({"weights": "nan.pt", "images": "grey.npz"}, "IMAGES=grey.npz: the network gives outputs that are"),
    "a pair": ({"images": "grey.npz", "network": "mynet:Pair"}, "IMAGES=grey.npz: outputs of type tuple: expected n"),
    "mean": ({"images": "grey.npz", "mean": [float("nan")]}, r"MEAN=\[nan\] STD=.*: expected a finite number"),
    "means": ({"images": "grey.npz", "mean": [0, 0]}, r"MEAN=\[0, 0\] STD=.*: expected a finite number"),
    "std": ({"images": "grey.npz", "std": [0]}, r"STD=\[0\]: expected a finite number for each of 1 ch"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_in_words(here, case):
    for name, shape in {"rgb": (8, 8, 3), "large": (9, 8), "grey": (8, 8)}.items():
        npz(f"{name}.npz", shape)
    saved("narrow.pt", nn.Linear(2, 2).state_dict())
    saved("list.pt", [1, 2])
    state = command.built("mynet:build").state_dict()
    saved("sparse.pt", state | {"4.bias": state["4.bias"].to_sparse()})
    saved("nan.pt", state | {"4.bias": torch.full((10,), torch.nan)})
    tied = command.built("mynet:Tied").state_dict()
    saved("untied.pt", tied | {"second.weight": tied["second.weight"] + 1})
    Path("hostile.pt").write_bytes(pickle.dumps(Hostile(), 2))
    Path("empty").write_bytes(b"")
    Path("damaged").write_bytes(b"\x10\0\0\0\0\0\0\0{garbage")
    given, message = WRONG[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(**given)
    assert not Path("ran").exists() and not Path("files").exists()


def test_the_command_runs_from_a_shell_and_ends_in_one_sentence(here):
    Path("file").write_text("no folder")
    cases = (("mynet:build", "pruned", "runs", 0), ("mynet:absent", "pruned", "runs", 1))
    for network, form, out, code in (*cases, ("mynet:build", "pruned", "file", 1), ("mynet:build", "int4", "runs", 2)):
        words = [sys.executable, "-m", "studylib.tree.compress", network, "--mean", "--forms", form, "--out", out]
        done = subprocess.run(words, text=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
        assert code != 1 or len(done.stderr.splitlines()) == 1
    assert "--forms: invalid choice: 'int4'" in done.stderr and "pruned-int8" in done.stderr
    assert Path("runs/mynet.build.pruned.slns").exists()


NEEDED = ("torch", "numpy", "constriction")
DECODE = """
import sys
from pathlib import Path
import torch
from torch import nn
from studylib import coding
from studylib.coding import codec
from studylib.networks.spec import normalize

published, own = (Path(name).read_bytes() for name in sys.argv[1:])
model = codec.decode(published)
logits = model(normalize(model, torch.zeros(1, 1, 8, 8)))
skeleton = coding.decode(own, nn.Sequential(nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Linear(20, 10)))
print(logits.tolist(), skeleton(torch.ones(1, 64)).tolist(), codec.__file__, sep="\\n")
"""


def requirements(*names):
    """The distributions that ``names`` need, they themselves among them, as this machine has them."""
    found, left = {}, [*names]
    while left:
        one = importlib.metadata.distribution(left.pop())
        if one.name not in found:
            found[one.name] = one
            asked = [Requirement(text) for text in one.requires or ()]
            left += [each.name for each in asked if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.long
def test_a_wheel_decodes_with_torch_numpy_and_constriction_alone(tmp_path):
    source, env = tmp_path / "source", tmp_path / "env"
    shutil.copytree(ROOT / "studylib", source / "studylib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(build, check=True)
    venv.create(env)
    (packages,) = env.glob("lib/python3*/site-packages")
    (wheel,) = tmp_path.glob("studylib-*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    needed = requirements(*NEEDED)
    for one in needed.values():
        tops = {file.parts[0] for file in one.files if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(one.locate_file(top))
    assert not {"pydantic", "safetensors", "pandas", "scikit-learn", "torchvision"} & needed.keys()
    torch.manual_seed(0)
    own = nn.Sequential(nn.Linear(64, 20), nn.BatchNorm1d(20), nn.Linear(20, 10)).eval()
    (tmp_path / "own.slns").write_bytes(coding.compress(own).file)
    published = ROOT / "figures" / "models" / "digits-densenet16-z89.3-8bit.slnc"
    words = [env / "bin" / "python", "-I", "-c", DECODE, published, tmp_path / "own.slns"]
    done = subprocess.run(words, text=True, capture_output=True, cwd=tmp_path, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    model = codec.decode(published.read_bytes())
    with torch.no_grad():
        expected = model(normalize(model, torch.zeros(1, 1, 8, 8))), own(torch.ones(1, 64))
    *found, module = done.stdout.splitlines()
    for text, tensor in zip(found, expected, strict=True):
        assert torch.equal(torch.tensor(json.loads(text)), tensor)
    assert Path(module).is_relative_to(packages)
