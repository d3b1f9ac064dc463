import json
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib import codec, inference, lowrank, models, quantize, size, store

ARGS = {"in_channels": 1, "image_size": 8, "classes": 10}
IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def outputs(model):
    with torch.no_grad():
        return model(IMAGES)


def convnet(seed=0, widths=(3, 4, 5), hidden=(6, 5)):
    return models.create("convnet", seed, **ARGS, widths=list(widths), hidden=list(hidden)).eval()


def int8_convnet(seed, widths, hidden, bits, density):
    """An int8 ConvNet of random integers of ``bits`` bits, scales and biases; each weight lives with ``density``."""
    draw = torch.Generator().manual_seed(seed)
    model = convnet(seed, widths, hidden)
    structure = {"module": "quantize", "layers": list(models.weight_layers(model))}
    quantize.restructure(model, structure)
    for layer in models.weight_layers(model).values():
        reach = 2 ** (bits - 1)
        layer.weight.random_(-reach, reach, generator=draw)
        layer.weight *= torch.rand(layer.weight.shape, generator=draw) < density
        layer.weight_scale.uniform_(0.001, 0.1, generator=draw)
        layer.bias.normal_(generator=draw)
        layer.input_scale.fill_(0.05 + 0.1 * torch.rand((), generator=draw).item())
        layer.input_zero_point.random_(0, 256, generator=draw)
        layer.freeze()
    return models.with_change(model, "int8", {"layers": 6}, structure).eval()


@given(
    seed=st.integers(0, 999),
    widths=st.tuples(*[st.integers(1, 9)] * 3),
    hidden=st.tuples(*[st.integers(1, 9)] * 2),
    bits=st.integers(2, 8),
    density=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
    floats=st.sampled_from(inference.FLOATS),
)
def test_int8_models_come_back_with_the_same_outputs_bit_for_bit(seed, widths, hidden, bits, density, floats):
    model = int8_convnet(seed, widths, hidden, bits, density)
    reference = inference.apply(model, floats=floats)
    file = codec.encode(model, floats=floats)
    decoded = codec.decode(file)
    codec.verify(reference, decoded)
    assert torch.equal(outputs(decoded), outputs(reference))
    assert not decoded.training and decoded.history == []
    assert codec.encode(decoded) == file == codec.encode(reference)


@given(
    seed=st.integers(0, 999),
    density=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
    factorized=st.booleans(),
    floats=st.sampled_from(inference.FLOATS),
)
def test_float_models_come_back_exactly(seed, density, factorized, floats):
    model = convnet(seed, (6, 7, 8), (12, 9))
    model = lowrank.apply(model) if factorized else model
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in models.weight_layers(model).values():
            layer.weight *= torch.rand(layer.weight.shape, generator=draw) < density
    reference = inference.apply(model, floats=floats)
    decoded = codec.decode(codec.encode(model, floats=floats))
    expected, found = reference.state_dict(), decoded.state_dict()
    assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert torch.equal(outputs(decoded), outputs(reference))
    assert isinstance(decoded.fc3.second.weight if factorized else decoded.fc3.weight, torch.nn.Parameter)


@pytest.mark.parametrize("change", ["nothing lives", "one weight", "one layer is empty", "everything is one value"])
@pytest.mark.parametrize("kind", ["int8", "float"])
def test_odd_models_come_back(kind, change):
    model = int8_convnet(0, (3, 4, 5), (6, 5), 8, 1.0) if kind == "int8" else convnet()
    layers = models.weight_layers(model)
    with torch.no_grad():
        for name, layer in layers.items():
            if change in ("nothing lives", "one weight") or (change == "one layer is empty" and name == "fc2"):
                layer.weight.zero_()
            elif change == "everything is one value":
                layer.weight.fill_(-3)
        if change == "one weight":
            layers["fc1"].weight[2, 1] = -5
    reference = inference.apply(model)
    decoded = codec.decode(codec.encode(model))
    codec.verify(reference, decoded)
    assert torch.equal(outputs(decoded), outputs(reference))
    assert outputs(decoded).isfinite().all()


def test_what_no_output_depends_on_is_left_out_and_zero():
    model = int8_convnet(0, (3, 4, 5), (6, 5), 8, 1.0)
    model.fc3.weight[4] = 0
    model.fc3.weight[:, 2] = 0
    file, decoded = codec.encode(model), codec.decode(codec.encode(model))
    assert decoded.fc3.weight_scale[4] == 0 and decoded.fc3.weight_scale[3] == model.fc3.weight_scale[3] != 0
    model.fc3.weight_scale[4] = 123.0
    assert codec.encode(model) == file
    model.fc3.weight.zero_()
    empty = codec.decode(codec.encode(model))
    assert empty.fc3.input_scale == 1 and empty.fc3.input_zero_point == 0
    assert torch.equal(outputs(empty), model.fc3.bias.expand(16, 10))


@pytest.mark.parametrize("activations", quantize.ACTIVATIONS)
def test_every_kind_of_activation_comes_back(student_model, int8_model, activations):
    model = quantize.with_activations(int8_model, student_model, activations)
    decoded = codec.decode(codec.encode(model))
    assert torch.equal(outputs(decoded), outputs(inference.apply(model)))


def test_densenets_come_back(teacher_model, digits):
    model = quantize.apply(teacher_model, digits, calibration_images=64)
    for each in (teacher_model, model):
        decoded = codec.decode(codec.encode(each))
        assert torch.equal(outputs(decoded), outputs(inference.apply(each)))
        assert size.multiply_adds(decoded, digits.model_args) <= size.multiply_adds(each, digits.model_args)


def test_half_precision_takes_fewer_bytes(int8_model, student_model):
    for model, share in ((int8_model, 0.97), (student_model, 0.56)):
        assert len(codec.encode(model, floats="float16")) < share * len(codec.encode(model))
    half = inference.apply(student_model, floats="float16")
    assert codec.encode(half) == codec.encode(student_model, floats="float16")  # None: as the model says


def test_the_file_is_smaller_than_zstandard(int8_model, student_model):
    for model in (int8_model, student_model):
        assert len(codec.encode(model)) < size.accountings(model)["bytes_zstd"]


def test_two_encodings_are_the_same_bytes(int8_model):
    assert codec.encode(int8_model) == codec.encode(models.duplicate(int8_model))


def test_the_format_of_version_1_stays_readable():
    """A file written by an earlier run, as text: what is published must decode for ever."""
    file = bytes.fromhex(GOLDEN)
    decoded = codec.decode(file)
    assert codec.encode(int8_convnet(7, (2, 2, 2), (2, 2), 4, 0.5)) == file
    assert decoded.spec["name"] == "convnet" and decoded.fc2.weight.shape[1] <= 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(student_model, bad):
    model = models.duplicate(student_model)
    with torch.no_grad():
        model.fc2.bias[0] = bad
    with pytest.raises(codec.CodecError, match=r"fc2\.bias"):
        codec.encode(model)


def test_tensors_of_other_types_are_refused(student_model):
    with pytest.raises(codec.CodecError, match=r"float64.*expected float32"):
        codec.encode(models.duplicate(student_model).double())
    with pytest.raises(ValueError, match=r"int4.*float32, float16"):
        codec.encode(student_model, floats="int4")


def test_decoding_needs_torch_numpy_and_the_coder_only(int8_model, teacher_model, tmp_path):
    """In a process where nothing else can be imported."""
    model = lowrank.apply(teacher_model)
    for name, each in (("a", int8_model), ("b", model)):
        (tmp_path / name).write_bytes(codec.encode(each))
        torch.save(outputs(inference.apply(each)), tmp_path / f"{name}.pt")
    script = """if True:
        import sys
        for name in ("torchvision", "torchao", "sklearn", "pandas", "safetensors", "zstandard", "matplotlib"):
            sys.modules[name] = None
        import torch
        from studylib import codec
        torch.set_num_threads(1)
        for name in "ab":
            with open(f"{sys.argv[1]}/{name}", "rb") as file:
                model = codec.decode(file.read())
            images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
            assert torch.allclose(model(images), torch.load(f"{sys.argv[1]}/{name}.pt"), atol=1e-5)
    """
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, cwd=store.root())


# What is damaged or hostile.


def sealed(body: bytes) -> bytes:
    """``body`` with its checksum."""
    return body + struct.pack("<I", zlib.crc32(body))


def with_spec(spec, kind=0) -> bytes:
    """A file of the right form with ``spec`` (JSON data or bytes) and no tensors."""
    plain = spec if isinstance(spec, bytes) else json.dumps(spec).encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=codec.KNOWN)
    text = deflate.compress(plain) + deflate.flush()
    return sealed(codec.HEAD.pack(codec.MAGIC, 1, kind, len(text), min(len(plain), 0xFFFF), 0, 0, 0) + text)


def spec_of(name="convnet", changes=(), **args):
    return {"format": 1, "name": name, "args": ARGS | args, "changes": list(changes)}


def change(module, **structure):
    return {"technique": "x", "structure": {"module": module, **structure}}


@pytest.fixture(scope="module")
def small_file():
    return codec.encode(int8_convnet(3, (3, 4, 5), (6, 5), 6, 0.4))


def test_a_truncated_file_is_refused(small_file):
    for length in range(len(small_file)):
        with pytest.raises(codec.CodecError):
            codec.decode(small_file[:length])


def test_every_flipped_bit_is_noticed(small_file):
    for i in range(8 * len(small_file)):
        damaged = bytearray(small_file)
        damaged[i // 8] ^= 1 << i % 8
        with pytest.raises(codec.CodecError):
            codec.decode(damaged)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "ends too early"),
        (b"PK\x03\x04" + bytes(60), "starts with b'PK"),
        (sealed(codec.HEAD.pack(b"SLNC", 2, 0, 0, 0, 0, 0, 0)), "version 2: this studylib reads version 1"),
        (sealed(codec.HEAD.pack(b"SLNC", 1, 7, 0, 0, 0, 0, 0)), "floats of kind 7"),
        (sealed(codec.HEAD.pack(b"SLNC", 1, 0, 60_000, 60_000, 0, 0, 0)), "header does not fit"),
        (sealed(codec.HEAD.pack(b"SLNC", 1, 0, 0, 0, 9, 3, 1)), "header does not fit"),
        (sealed(codec.HEAD.pack(b"SLNC", 1, 0, 1, 1, 0, 0, 0) + b"\xff"), "spec is damaged"),
        (with_spec(b"x" * 70_000), "spec is"),
        (with_spec(b"[" * 60_000), "spec is damaged"),
        (with_spec(b"{}"), "spec does not build"),
        (with_spec([]), "spec does not build"),
        (with_spec({"format": 7, "changes": []}), "spec format 7"),
        (with_spec(b"[" * 900 + b"]" * 900), "spec does not build"),
        (with_spec(spec_of("densenet", [change("inference", widths={})] * 900, depth=1003)), "900 changes in the spec"),
        (with_spec({"format": 1, "name": "os.system", "args": {}, "changes": []}), "os.system"),
        (with_spec(spec_of(depth=3)), "does not build"),
        (with_spec(spec_of(widths=[10**9, 1, 1])), "1000000000 in the spec: expected at most 4096"),
        (with_spec(spec_of(widths=[1e308, 1, 1])), "expected at most 4096"),
        (with_spec(b'{"format": NaN}'), "nan in the spec"),
        (with_spec(spec_of(widths=[4096, 4096, 4096])), "expected at most 67108864"),
        (with_spec(spec_of(image_size=4096)), "expected at most 67108864"),
        (with_spec(spec_of("densenet", depth=4096, growth=4096)), "expected at most"),
        (with_spec(spec_of(widths=[-1, 2, 3])), "does not build"),
        (with_spec(spec_of(changes=[change("os")])), "does not build.*'os'"),
        (with_spec(spec_of(changes=[change("..os")])), "does not build.*os"),
        (with_spec(spec_of(changes=[change("quantize", layers=["features"])])), "expected a convolution"),
        (with_spec(spec_of(changes=[change("lowrank", ranks={"fc1": 4000})])), "fc1"),
        (with_spec(spec_of()), "norm"),  # not in inference form
        (with_spec(spec_of(changes=[change("inference", widths={})]), kind=1), "float16"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_a_hostile_file_is_refused_with_a_reason(file, message):
    with pytest.raises(codec.CodecError, match=message):
        codec.decode(file)


def test_a_spec_cannot_ask_for_more_than_its_reader_allows(small_file):
    model = codec.decode(small_file)
    numbers = sum(t.numel() for t in model.state_dict().values())
    codec.decode(small_file, codec.Limits(parameters=numbers, file_bytes=len(small_file)))
    for limits in ({"parameters": numbers - 1}, {"file_bytes": len(small_file) - 1}, {"layers": 5}, {"integer": 9}):
        with pytest.raises(codec.CodecError, match="expected at most"):
            codec.decode(small_file, codec.Limits(**limits))


def test_a_few_bytes_cannot_ask_for_a_million_weights():
    """The range coder would give any number of symbols from nothing."""
    spec = inference.apply(convnet(0, (64, 128, 256), (512, 64))).spec
    body = with_spec(spec)[:-4]
    for words in (b"", b"\xff" * 4, b"\xff" * 8, bytes(8), bytes(range(64))):
        with pytest.raises(codec.CodecError):
            codec.decode(sealed(body + words))


def mutated(file: bytes, rng: np.random.Generator) -> bytes:
    """``file`` with something done to it, its checksum included."""
    kind, damaged = rng.integers(6), bytearray(file)
    at = int(rng.integers(len(damaged)))
    if kind == 0:
        for i in rng.integers(0, len(damaged), rng.integers(1, 9)):
            damaged[i] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del damaged[at : at + int(rng.integers(1, 40))]
    elif kind == 2:
        damaged[at:at] = rng.bytes(int(rng.integers(1, 40)))
    elif kind == 3:
        damaged[at : at + 8] = rng.bytes(8)
    elif kind == 4:  # the header and the spec, where every byte counts
        damaged[int(rng.integers(codec.HEAD.size + 60))] = int(rng.integers(256))
    else:
        damaged[at:] = damaged[int(rng.integers(len(damaged))) :]
    return bytes(damaged)


def test_twenty_thousand_damaged_files_are_refused_or_decode_to_a_model_within_the_limits(small_file):
    """Half of them with the checksum made right again, so that everything behind it is reached."""
    rng, limits = np.random.default_rng(0), codec.Limits(parameters=10_000, file_bytes=10_000, layers=200)
    float_file = codec.encode(inference.apply(convnet(1), floats="float16"))
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for i in range(20_000):
        file = mutated(float_file if i % 4 > 1 else small_file, rng)
        file = sealed(file[:-4]) if i % 2 else file
        try:
            model = codec.decode(file, limits)
        except codec.CodecError:
            refused += 1
            continue
        tensors = model.state_dict().values()
        assert sum(t.numel() for t in tensors) <= limits.parameters
        assert all(t.isfinite().all() for t in tensors)
    assert 10_000 <= refused < 20_000  # without the right checksum all of them; with it, some are other models
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


GOLDEN = (
    "534c4e4301004400a90101020323ceab28b61ba2da6e81623922ad461be90021729080b8781c87969007201d03a39e98fc6c"
    "84353f93908b315c024c2ee0a002173140b6612cb49c018699612c38d30300ae95352af1d29d0e8d69959b3100ac2169f6c0"
    "68198b00f80e6685f67f433e34d0e9de71e0cebf4adeaf8270d5d4f8b602cdf31282c2801589d50c0873f6839527414310c9"
    "38d3830a5f39e811f1bdc2d43d5adb21bd38f01bc84af573ba2069a6f8c3c16212e6f89ebc7f6eeaf5f885578c19df6cc145"
    "111da0fbc5bec16aee1409b7895013e7184634e5d5bb4733320fec33532719369e45f139b22c41ab163084e64cc1e2267172"
    "590c986aaca911e484d0fae9c5c6e3ad5eeb5e3cb6ba8de97b19279b207aa8"
)
