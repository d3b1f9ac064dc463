"""A model as one small file with all that inference needs, and back.

::

    SLNC | version, width of the floats | length, spec (JSON, deflated) | range-coded tensors | CRC-32

The tensors are those of the inference form (:mod:`studylib.coding.shipped`), layer after layer in the spec's order.
A layer has positions, values, scales, biases, the input's scale and zero point. Scales of rows without a weight are
left out and read as 0. The input's scale of a layer without any is read as 1. Reading executes nothing from the file.
Sizes are held against :class:`Limits` before anything is decoded or allocated.
"""

import dataclasses
import json
import reprlib
import struct
import zlib

import numpy as np
import torch
from torch import nn

from studylib.coding import range_coder, shipped
from studylib.coding.magnitudes import class_edges
from studylib.coding.tensors import Tensors
from studylib.networks.blocks import SpecError
from studylib.networks.grid import has_weights
from studylib.networks.layers import weight_layers
from studylib.networks.spec import build, rebuilt

MAGIC, VERSION = b"SLNC", 2
MOST_SPEC = 2**16 - 1  # bytes of the spec: the header has two for their number
TYPES = (torch.float32, torch.int8, torch.uint8)
HEAD = struct.Struct("<4sBBHH3B")  # magic, version, floats, bytes of the spec deflated and plain, edges of the classes
KNOWN = (  # text that specs have in common, for deflate to point at; a part of the format
    b'"}},{"technique":"kd","temperature":5.0,"alpha":0.7,"epochs":{"technique":"qat","epochs":"bits":{"technique":"imp",'
    b'"rounds":10,"epochs":,"sparsity":0.89},{"technique":"svd","delta":1,"left_alone":[],"structure":{"module":"lowrank",'
    b'"ranks":{"fc1":,"fc2":,"fc3":}}},{"technique":"inference","sliced":0,"floats":"float32","float16","structure":'
    b'{"module":"inference","widths":{}}}]}{"technique":"int8","layers":16,"structure":{"module":"quantize","layers":['
    b'"features.0.conv","features.2.conv","features.4.conv","fc1","fc2","fc3.first","fc3.second","features.stem.conv",'
    b'"features.block1.layers.0.conv","features.transition1.conv","features.block2.layers.1.conv",'
    b'"features.transition2.conv","features.block3.layers.2.conv","classifier"]}{"format":1,"name":"convnet","args":'
    b'{"widths":[32,64,128],"hidden":[128,64]{"format":1,"name":"densenet","args":{"depth":40,"growth":12,"stem":16,'
    b'"in_channels":3,"image_size":32,"classes":10},"changes":[{"technique":"teacher","epochs":'
)


class CodecError(ValueError):
    """Bytes that are no model of this format, or a model outside it; the message says why."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The most that a file may ask for; raise them for larger models of a source you trust."""

    file_bytes: int = 2**28
    parameters: int = 2**26  # numbers of the model, zeros included
    integer: int = 2**12  # any one number in the spec that shapes the model (depth, width, rank)
    layers: int = 2**14  # modules of the model
    changes: int = 64  # entries of the spec's history, each of which may rebuild the model


def encode(model: nn.Module, *, floats: str | None = None) -> bytes:
    """The file of ``model``, in its inference form; whatever is not refused, :func:`decode` reads.

    Models beyond the usual :class:`Limits` are coded as well; who reads them must raise the limits.

    Args:
        floats: "float32" or "float16", for biases, scales and float weights. None: as the model's inference form says,
            else float32. ``shipped.apply`` with the same gives what :func:`decode` will return.

    Raises:
        CodecError: layers that no spec builds (:func:`studylib.networks.spec.rebuilt`). Numbers not finite or beyond
            the layer's bits. Types but float32, int8 and uint8. A spec not JSON or above 65,535 bytes.
        ValueError: unknown ``floats``, or as studylib.coding.shipped.HalfPrecisionError a float beyond float16.
    """
    _rebuilt(model)
    model = shipped.apply(model, floats=floats or shipped.floats_of(model))
    for name, tensor in model.state_dict().items():
        if tensor.dtype not in TYPES:
            raise CodecError(f"{name} is {tensor.dtype}: expected float32, int8 or uint8")
        if not tensor.isfinite().all():
            raise CodecError(f"{name}: holds a number that is not finite")
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    kind = shipped.FLOATS.index(shipped.floats_of(model))
    empty = _rebuilt(model)
    plain = json.dumps(empty.spec, ensure_ascii=False, separators=(",", ":")).encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=KNOWN)
    spec = deflate.compress(plain) + deflate.flush()
    if max(len(plain), len(spec)) > MOST_SPEC:
        raise CodecError(f"the spec takes {len(plain)} bytes: expected at most {MOST_SPEC}")
    edges = class_edges([t for t in tensors.values() if t.dtype == np.int8])
    writer = range_coder.Writer()
    _check_values(empty, _walk(empty, Tensors(writer, edges), shipped.FLOATS[kind], tensors))
    head = HEAD.pack(MAGIC, VERSION, kind, len(spec), len(plain), *edges)
    body = head + spec + writer.words().astype("<u4").tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def decode(file: bytes, limits: Limits = Limits()) -> nn.Module:
    """The model in ``file``, in evaluation mode on the CPU.

    Every number equals the one encoded, but for the sign of a weight's zero. On the same machine and at the same batch
    size outputs are the same bit for bit. CodecError: not such a file, of another version, damaged or beyond
    ``limits``. TypeError: not bytes.
    """
    if not isinstance(file, bytes | bytearray | memoryview):
        raise TypeError(f"{type(file).__name__}: expected the bytes of a file, such as Path(...).read_bytes()")
    kind, spec, edges, words = _open(bytes(file), limits)
    model = _skeleton(spec, limits)
    if shipped.floats_of(model) != shipped.FLOATS[kind]:
        raise CodecError(f"floats {shipped.FLOATS[kind]!r} in the header, {shipped.floats_of(model)!r} in the spec")
    reader = range_coder.Reader(words)
    try:
        tensors = _walk(model, Tensors(reader, edges), shipped.FLOATS[kind], None)
        reader.finish()
        _check_values(model, tensors)
    except (range_coder.CodeError, CodecError) as error:
        raise CodecError(f"damaged: {error}") from error
    model.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()}, assign=True)
    return model.eval()


def verify(model: nn.Module, decoded: nn.Module) -> None:
    """Sees that ``decoded`` holds what ``model`` (in inference form) does, and that it would be coded alike.

    CodecError: another spec, or a tensor that differs where an output may depend on it.
    """
    if decoded.spec != _rebuilt(model).spec:
        raise CodecError("decoding gave another spec than was encoded")
    found = decoded.state_dict()
    for name, tensor in model.state_dict().items():
        layer, _, field = name.rpartition(".")
        weight = found.get(f"{layer}.weight")
        keep = _needed(field, None if weight is None else weight.numpy(), tuple(tensor.shape))
        if not np.array_equal(found[name].numpy()[keep], tensor.numpy()[keep]):
            raise CodecError(f"{name}: decoding gave other numbers than were encoded")


def _open(file: bytes, limits: Limits) -> tuple[int, dict, list[int], np.ndarray]:
    """The parts of ``file``: width of floats, spec, edges, words of the coder; whole and within ``limits``."""
    if len(file) > limits.file_bytes:
        raise CodecError(f"{len(file)} bytes: expected at most {limits.file_bytes}")
    if file[:4] == b"SLNS":
        raise CodecError("a network of your own (make compress): expected a model of the study; coding.decode reads it")
    if len(file) < HEAD.size + 4 or file[:4] != MAGIC:
        raise CodecError(f"not a coded model: it starts with {file[:4]!r}, not {MAGIC!r}, or ends too early")
    _, version, kind, deflated, plain, *edges = HEAD.unpack_from(file)
    if version != VERSION:
        raise CodecError(f"version {version}: this studylib reads version {VERSION}")
    if struct.unpack("<I", file[-4:])[0] != zlib.crc32(file[:-4]):
        raise CodecError("truncated or altered: the checksum does not match")
    if kind >= len(shipped.FLOATS):
        raise CodecError(f"floats of kind {kind}: expected {', '.join(map(str, range(len(shipped.FLOATS))))}")
    words = file[HEAD.size + deflated : -4]
    if len(file) < HEAD.size + deflated + 4 or len(words) % 4 or sorted(edges) != edges:
        raise CodecError("the header does not fit the file")
    inflate = zlib.decompressobj(-15, zdict=KNOWN)
    try:
        text = inflate.decompress(file[HEAD.size : HEAD.size + deflated], plain + 1)
        spec = json.loads(text, parse_constant=_refuse)
    except (zlib.error, ValueError, RecursionError) as error:
        raise CodecError(f"the spec is damaged: {error}") from error
    if len(text) != plain or not inflate.eof or inflate.unused_data:
        raise CodecError("the spec is not as long as the header says")
    return kind, spec, edges, np.frombuffer(words, "<u4").astype(np.uint32)


def _skeleton(spec, limits: Limits) -> nn.Module:
    """The model of ``spec`` without memory for its tensors, known to be within ``limits``."""
    try:
        if len(spec["changes"]) > limits.changes:
            raise CodecError(f"{len(spec['changes'])} changes in the spec: expected at most {limits.changes}")
        _check_numbers([spec["args"], *(change.get("structure") for change in spec["changes"])], limits.integer)
        with torch.device("meta"):
            model = build(spec)
        shipped.floats_of(model)
    except CodecError:
        raise
    except Exception as error:  # a hostile spec may break any constructor
        raise CodecError(f"the spec does not build: {type(error).__name__}: {str(error)[:200]}") from error
    modules, total = sum(1 for _ in model.modules()), sum(t.numel() for t in model.state_dict().values())
    if modules > limits.layers or total > limits.parameters:
        most = f"at most {limits.parameters} in {limits.layers}"
        raise CodecError(f"{total} numbers in {modules} modules: expected {most}")
    if others := [f"{name} is {t.dtype}" for name, t in model.state_dict().items() if t.dtype not in TYPES]:
        raise CodecError(f"{others[0]}: expected a model in inference form")
    return model


def _check_numbers(value, most: int) -> None:
    """Refuses numbers in ``value`` (JSON data) that no architecture needs, before one is built from them."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_numbers(each, most)
    elif isinstance(value, int | float) and not -most <= value <= most:
        raise CodecError(f"{reprlib.repr(value)} in the spec: expected at most {most}")


def _refuse(constant: str):
    raise ValueError(f"{constant} is no JSON")


def _check_values(model: nn.Module, tensors: dict[str, np.ndarray]) -> None:
    """Refuses integers beyond a layer's bits, and scales that no quantization has."""
    for name, layer in weight_layers(model).items():
        half = 2 ** (max(getattr(layer, "bits", 8), 2) - 1)  # one bit: -1, 1, and 0 where nothing is left
        weight = tensors[f"{name}.weight"]
        if weight.dtype == np.int8 and weight.size and not -half <= weight.min() <= weight.max() < half:
            raise CodecError(f"{name} has weights beyond its bits")
        scales = [tensors[key] for key in (f"{name}.weight_scale", f"{name}.input_scale") if key in tensors]
        if any((scale < 0).any() for scale in scales) or (len(scales) == 2 and not scales[1] > 0):
            raise CodecError(f"{name} has a scale that is not above 0")


def _walk(model: nn.Module, code: Tensors, floats: str, tensors: dict | None) -> dict[str, np.ndarray]:
    """Codes every tensor of ``model`` in a fixed order; writes ``tensors``, or reads them where they are None."""
    found, weights = {}, {f"{name}.weight" for name in weight_layers(model)}
    state = model.state_dict()
    for name in _order(list(state), weights):
        tensor = state[name]
        given, shape = None if tensors is None else tensors[name], tuple(tensor.shape)
        layer, _, field = name.rpartition(".")
        weight = found.get(f"{layer}.weight") if state.get(f"{layer}.weight") is not None else None
        if name in weights and tensor.dtype == torch.int8:
            found[name] = code.integers(given, shape)
        elif tensor.dtype == torch.float32:
            keep = _needed(field, weight, shape) if name not in weights else code.positions(given, shape)
            values = code.floats(None if given is None else given[keep], int(keep.sum()), f"{field} {floats[5:]}")
            found[name] = np.zeros(shape, np.float32) if field != "input_scale" else np.ones(shape, np.float32)
            found[name][keep] = values
        elif tensor.dtype == torch.uint8 and tensor.numel() == 1:
            read = _needed(field, weight, shape).any()
            found[name] = np.full(shape, code.byte(None if given is None else int(given)) if read else 0, np.uint8)
        else:
            raise CodecError(f"{name}: there is no way to code {tensor.dtype} of shape {shape} here")
    if not all(np.isfinite(t).all() for t in found.values()):
        raise CodecError("a number is not finite")
    return found


def _rebuilt(model: nn.Module) -> nn.Module:
    """What a reader will build from the spec of ``model``; tensors are coded in its order."""
    try:
        empty = rebuilt(model)
        shipped.floats_of(empty)
    except SpecError as error:
        raise CodecError(str(error)) from error
    except (KeyError, TypeError) as error:
        raise CodecError("changes in the spec: expected a technique of each, and of inference its floats") from error
    return empty


def _order(names: list[str], weights: set[str]) -> list[str]:
    """Layers in the order of the spec, the weight of each before what hangs on it."""
    place = {name: i for i, name in enumerate(names)}

    def key(name: str) -> tuple:
        weight = f"{name.rpartition('.')[0]}.weight"
        return (place.get(weight, place[name]), name not in weights, place[name])

    return sorted(names, key=key)


def _needed(field: str, weight: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    """Where a tensor beside ``weight`` has a value that an output may depend on, boolean of ``shape``."""
    if weight is not None and field == "weight_scale":
        return has_weights(torch.from_numpy(weight), shape).numpy()
    if weight is not None and field in ("input_scale", "input_zero_point"):
        return np.full(shape, weight.any())
    return np.ones(shape, bool)
