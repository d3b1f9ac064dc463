import hashlib
import json
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from studylib.coding import codec, magnitudes, positions, shipped, size
from studylib.coding.range_coder import Coder
from studylib.disk.files import root
from studylib.networks import cost, int8_layers
from studylib.networks.layers import duplicate, weight_layers
from studylib.networks.spec import create, with_change
from studylib.techniques import int8, svd

ARGS = {"in_channels": 1, "image_size": 8, "classes": 10}
IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def outputs(model):
    with torch.no_grad():
        return model(IMAGES)


def convnet(seed=0, widths=(3, 4, 5), hidden=(6, 5)):
    return create("convnet", seed, **ARGS, widths=list(widths), hidden=list(hidden)).eval()


def int8_convnet(seed, widths, hidden, bits, density):
    """An int8 ConvNet of random integers of ``bits`` bits, scales and biases; each weight lives with ``density``."""
    draw = torch.Generator().manual_seed(seed)
    model = convnet(seed, widths, hidden)
    structure = {"module": "quantize", "layers": list(weight_layers(model))}
    int8_layers.restructure(model, structure)
    for layer in weight_layers(model).values():
        reach = 2 ** (bits - 1)
        layer.weight.random_(-reach, reach, generator=draw)
        layer.weight *= torch.rand(layer.weight.shape, generator=draw) < density
        layer.weight_scale.uniform_(0.001, 0.1, generator=draw)
        layer.bias.normal_(generator=draw)
        layer.input_scale.fill_(0.05 + 0.1 * torch.rand((), generator=draw).item())
        layer.input_zero_point.random_(0, 256, generator=draw)
        layer.freeze()
    return with_change(model, "int8", {"layers": 6}, structure).eval()


@given(
    seed=st.integers(0, 999),
    widths=st.tuples(*[st.integers(1, 9)] * 3),
    hidden=st.tuples(*[st.integers(1, 9)] * 2),
    bits=st.integers(2, 8),
    density=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)),
    floats=st.sampled_from(shipped.FLOATS),
)
def test_int8_models_come_back_with_the_same_outputs_bit_for_bit(seed, widths, hidden, bits, density, floats):
    model = int8_convnet(seed, widths, hidden, bits, density)
    reference = shipped.apply(model, floats=floats)
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
    floats=st.sampled_from(shipped.FLOATS),
)
def test_float_models_come_back_exactly(seed, density, factorized, floats):
    model = convnet(seed, (6, 7, 8), (12, 9))
    model = svd.apply(model) if factorized else model
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in weight_layers(model).values():
            layer.weight *= torch.rand(layer.weight.shape, generator=draw) < density
    reference = shipped.apply(model, floats=floats)
    decoded = codec.decode(codec.encode(model, floats=floats))
    expected, found = reference.state_dict(), decoded.state_dict()
    assert expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert torch.equal(outputs(decoded), outputs(reference))
    assert isinstance(decoded.fc3.second.weight if factorized else decoded.fc3.weight, torch.nn.Parameter)


@pytest.mark.parametrize("change", ["nothing lives", "one weight", "one layer is empty", "everything is one value"])
@pytest.mark.parametrize("kind", ["int8", "float"])
def test_odd_models_come_back(kind, change):
    model = int8_convnet(0, (3, 4, 5), (6, 5), 8, 1.0) if kind == "int8" else convnet()
    layers = weight_layers(model)
    with torch.no_grad():
        for name, layer in layers.items():
            if change in ("nothing lives", "one weight") or (change == "one layer is empty" and name == "fc2"):
                layer.weight.zero_()
            elif change == "everything is one value":
                layer.weight.fill_(-3)
        if change == "one weight":
            layers["fc1"].weight[2, 1] = -5
    reference = shipped.apply(model)
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


def test_a_densenet_that_was_coded_takes_no_more_multiply_adds(teacher_model, digits):
    for each in (teacher_model, int8.apply(teacher_model, digits, calibration_images=64)):
        decoded = codec.decode(codec.encode(each))
        assert cost.multiply_adds(decoded, digits.model_args) <= cost.multiply_adds(each, digits.model_args)


def test_half_precision_takes_fewer_bytes(int8_model, student_model):
    for model, share in ((int8_model, 0.97), (student_model, 0.56)):
        assert len(codec.encode(model, floats="float16")) < share * len(codec.encode(model))
    half = shipped.apply(student_model, floats="float16")
    assert codec.encode(half) == codec.encode(student_model, floats="float16")  # None: as the model says


def test_the_file_is_smaller_than_zstandard(int8_model, student_model):
    for model in (int8_model, student_model):
        assert len(codec.encode(model)) < size.accountings(model)["bytes_zstd"]


def test_two_encodings_are_the_same_bytes(int8_model):
    assert codec.encode(int8_model) == codec.encode(duplicate(int8_model))


def structured_convnet():
    """Weights that each way to tell positions and most ways to tell magnitudes are best for somewhere."""
    model = int8_convnet(5, (24, 32, 200), (48, 32), 8, 1.0)
    draw = torch.Generator().manual_seed(5)
    first, second, third, wide, same, last = (layer.weight for layer in weight_layers(model).values())

    def thin(weight, *shape):
        density = torch.rand(shape, generator=draw) ** 6
        weight *= density > torch.rand(weight.shape, generator=draw)

    first.clamp_(-1, 1)
    second[:16] //= 16  # two kinds of row
    thin(third, 1, 32, 1, 1)
    thin(wide, 48, 1)
    wide[:, :20] = 0
    same.fill_(-7)
    last.clamp_(-3, 3)
    return model


def test_the_format_of_this_version_stays(monkeypatch):
    """What is published must decode for ever: every way of coding, by its digest, and a small file by its bytes."""
    chosen, choose = set(), Coder.choose

    def watched(self, ways, code):
        way = choose(self, ways, code)
        chosen.add(way)
        return way

    monkeypatch.setattr(Coder, "choose", watched)
    model = structured_convnet()
    files = [codec.encode(model), codec.encode(model, floats="float16")]
    assert chosen >= {*positions.WAYS, ("classes", "wide"), ("tensor", "sharp")} <= {*positions.WAYS, *magnitudes.WAYS}
    assert [hashlib.sha256(file).hexdigest()[:16] for file in files] == DIGESTS
    codec.verify(shipped.apply(model), codec.decode(files[0]))
    small = bytes.fromhex(GOLDEN)
    assert codec.encode(int8_convnet(7, (2, 2, 2), (2, 2), 4, 0.5)) == small
    assert codec.decode(small).spec["name"] == "convnet"


@pytest.mark.parametrize("hidden", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("kind", ["int8", "float"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_any_weight_come_back(kind, hidden):
    model = int8_convnet(0, (3, 4, 5), hidden, 8, 1.0) if kind == "int8" else convnet(0, (3, 4, 5), hidden)
    reference = shipped.apply(model)
    decoded = codec.decode(codec.encode(model))
    codec.verify(reference, decoded)
    assert torch.equal(outputs(decoded), outputs(reference))


def test_weights_of_few_bits_take_fewer_bytes_than_zstandard_and_little_more_than_their_entropy(digits, teacher_model):
    for bits in (2, 3, 4):
        model = int8.apply(teacher_model, digits, calibration_images=64, bits=bits)
        counted, file = size.accountings(model), codec.encode(model)
        assert len(file) < counted["bytes_zstd"] and len(file) < 1.03 * (counted["bytes_entropy"] + 600)
        codec.verify(shipped.apply(model), codec.decode(file))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(student_model, bad):
    model = duplicate(student_model)
    with torch.no_grad():
        model.fc2.bias[0] = bad
    with pytest.raises(codec.CodecError, match=r"fc2\.bias"):
        codec.encode(model)


def test_tensors_of_other_types_are_refused(student_model):
    with pytest.raises(codec.CodecError, match=r"bfloat16.*expected float32"):
        codec.encode(duplicate(student_model).bfloat16())
    with pytest.raises(codec.CodecError, match=r"float64.*expected float32"):
        codec.encode(duplicate(student_model).double())
    with pytest.raises(ValueError, match=r"int4.*float32, float16"):
        codec.encode(student_model, floats="int4")


def test_models_that_have_no_spec_of_json_are_refused(student_model):
    with pytest.raises(codec.CodecError, match="Linear has no spec"):
        codec.encode(torch.nn.Linear(2, 2))
    for bad in (float("nan"), {1, 2}, "\ud800"):
        model = with_change(duplicate(student_model), "x", {"value": bad})
        with pytest.raises(codec.CodecError, match="not JSON data"):
            codec.encode(model)


@pytest.mark.parametrize("file", [None, "model.slnc", 3, Path("model.slnc")])
def test_what_is_no_bytes_is_refused(file):
    with pytest.raises(TypeError, match="expected the bytes of a file"):
        codec.decode(file)


def test_numbers_that_shape_nothing_may_be_large(student_model):
    model = with_change(duplicate(student_model), "x", {"epochs": 10**6})
    assert codec.decode(codec.encode(model)).spec["changes"][-2] == {"technique": "x", "epochs": 10**6}


def test_decoding_needs_torch_numpy_and_the_coder_only(int8_model, teacher_model, tmp_path):
    """In a process where nothing else can be imported."""
    model = svd.apply(teacher_model)
    for name, each in (("a", int8_model), ("b", model)):
        (tmp_path / name).write_bytes(codec.encode(each))
        torch.save(outputs(shipped.apply(each)), tmp_path / f"{name}.pt")
    script = """if True:
        import sys
        for name in ("torchvision", "torchao", "sklearn", "pandas", "safetensors", "zstandard", "matplotlib"):
            sys.modules[name] = None
        import torch
        from studylib.coding import codec
        torch.set_num_threads(1)
        for name in "ab":
            with open(f"{sys.argv[1]}/{name}", "rb") as file:
                model = codec.decode(file.read())
            images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
            assert torch.allclose(model(images), torch.load(f"{sys.argv[1]}/{name}.pt"), atol=1e-5)
    """
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, cwd=root())


# What is damaged or hostile.


def sealed(body: bytes) -> bytes:
    """``body`` with its checksum."""
    return body + struct.pack("<I", zlib.crc32(body))


def with_spec(spec, kind=0) -> bytes:
    """A file of the right form with ``spec`` (JSON data or bytes) and no tensors."""
    plain = spec if isinstance(spec, bytes) else json.dumps(spec).encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=codec.KNOWN)
    text = deflate.compress(plain) + deflate.flush()
    return sealed(codec.HEAD.pack(codec.MAGIC, codec.VERSION, kind, len(text), min(len(plain), 0xFFFF), 0, 0, 0) + text)


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
        (sealed(codec.HEAD.pack(b"SLNC", 1, 0, 0, 0, 0, 0, 0)), "version 1: this studylib reads version 2"),
        (sealed(codec.HEAD.pack(b"SLNC", codec.VERSION, 7, 0, 0, 0, 0, 0)), "floats of kind 7"),
        (sealed(codec.HEAD.pack(b"SLNC", codec.VERSION, 0, 60_000, 60_000, 0, 0, 0)), "header does not fit"),
        (sealed(codec.HEAD.pack(b"SLNC", codec.VERSION, 0, 0, 0, 9, 3, 1)), "header does not fit"),
        (sealed(codec.HEAD.pack(b"SLNC", codec.VERSION, 0, 1, 1, 0, 0, 0) + b"\xff"), "spec is damaged"),
        (with_spec(b"x" * 70_000), "spec is"),
        (with_spec(b"[" * 60_000), "spec is damaged"),
        (with_spec(b"{}"), "spec does not build"),
        (with_spec([]), "spec does not build"),
        (with_spec({**spec_of(), "format": 7}), "spec format 7"),
        (with_spec(b"[" * 900 + b"]" * 900), "spec does not build"),
        (with_spec(spec_of(widths=[10**3000, 1, 1])), r"10+\.\.\.0+ in the spec"),
        (with_spec(spec_of("densenet", [change("inference", widths={})] * 900, depth=103)), "900 changes in the spec"),
        (with_spec({"format": 1, "name": "os.system", "args": {}, "changes": []}), "os.system"),
        (with_spec(spec_of(depth=3)), "does not build"),
        (with_spec(spec_of(widths=[10**9, 1, 1])), "1000000000 in the spec: expected at most 4096"),
        (with_spec(spec_of(widths=[1e308, 1, 1])), "expected at most 4096"),
        (with_spec(b'{"format": NaN}'), "spec is damaged: NaN"),
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
    spec = shipped.apply(convnet(0, (64, 128, 256), (512, 64))).spec
    body = with_spec(spec)[:-4]
    for words in (b"", b"\xff" * 4, b"\xff" * 8, bytes(8), bytes(range(64))):
        with pytest.raises(codec.CodecError):
            codec.decode(sealed(body + words))


def test_values_beyond_the_bits_or_scales_of_a_layer_are_refused(monkeypatch):
    def file(change):
        model = int8_convnet(0, (3, 4, 5), (6, 5), 4, 1.0)
        model.spec["changes"][-1]["structure"]["bits"] = 4
        for layer in weight_layers(model).values():
            layer.bits = 4
        change(model)
        with monkeypatch.context() as patch:
            patch.setattr(codec, "_check_values", lambda *_: None)  # which the writer does, too
            return codec.encode(model)

    assert codec.decode(file(lambda model: None)).fc2.bits == 4
    for change, message in (
        (lambda model: model.fc2.weight.fill_(8), "fc2 has weights beyond its bits"),
        (lambda model: model.fc2.weight.fill_(-9), "fc2 has weights beyond its bits"),
        (lambda model: model.fc2.weight_scale.fill_(-1), "fc2 has a scale"),
        (lambda model: model.fc2.input_scale.fill_(0), "fc2 has a scale"),
    ):
        with pytest.raises(codec.CodecError, match=message):
            codec.decode(file(change))


def test_a_file_cannot_ask_for_updates_without_end(monkeypatch):
    """A wide layer with a handful of nonzeros: no number of its columns makes reading it slow."""
    model = convnet(0, (3, 4, 40), (300, 5))
    with torch.no_grad():
        model.fc1.weight.zero_()
        model.fc1.weight[:, :4] = 1
    count, blocks, row = [], positions.BLOCKS, positions._adaptive_row
    monkeypatch.setattr(positions, "_adaptive_row", lambda *given: count.append(1) or row(*given))
    file = codec.encode(model)
    monkeypatch.setattr(positions, "BLOCKS", 10)
    small = codec.encode(model)
    count.clear()
    codec.decode(small)
    assert len(count) <= 10 < blocks
    monkeypatch.setattr(positions, "BLOCKS", blocks)
    codec.verify(shipped.apply(model), codec.decode(file))


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


@pytest.mark.long
def test_twenty_thousand_damaged_files_are_refused_or_decode_to_a_model_within_the_limits(small_file):
    """Half of them with the checksum made right again, so that everything behind it is reached."""
    rng, limits = np.random.default_rng(0), codec.Limits(parameters=10_000, file_bytes=10_000, layers=200)
    float_file = codec.encode(shipped.apply(convnet(1), floats="float16"))
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


DIGESTS = ["f2628778df3e367d", "4510c4a64fcb3f87"]
GOLDEN = (
    "534c4e4302004400a90101020323ceab28b61ba2da6e81623922ad461be90021729080b8781c87969007201d03a39e98fc6c"
    "84353f93908b315c024c2ee0a002173140b6612cb49c018699612c38d303006395352a0913a3c0c6b4d9bc1dd30291584567"
    "257128ac63a54c734e29f69148c4c247e502c903773126dc4e28ee4614f6691cce34dea5af86c997047833985211af37e63c"
    "d4ca9fe9103de59022f03e41d4380a4c1eedf215ab44c1c7f2ce03c861ad913896ce8c83d3ea58e5375d2d7d9c5d85272262"
    "a41decaee75f0849f7fef380d234c12050dbf4ae326ec5ca7b7143d9c938daabd581431cbf7124b3768ce1a3ead528d9bc32"
    "79277184aa232947a70bff1962d9b124c3b4d651fe07f35c2b449e08beccb4"
)
