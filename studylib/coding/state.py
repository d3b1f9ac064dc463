"""Any network's tensors as one small file, and back into a network of the same names and shapes.

::

    SLNS | version | lengths, list of tensors (JSON, deflated) | classes' edges | range-coded tensors | CRC-32

The list has name, type and shape of each tensor, and how it is in the file. Nothing in it says what a network computes:
who reads the file builds the network, here called skeleton. The tensors are those of its state_dict, and buffers that
are not persistent. Each is in the file in one of four ways.

========  =====================================================================================================
int8      integers, and a float32 scale for each row of the first dimension, an output channel of most layers
float32   sign and exponent entropy coded, bit for bit
raw       another type: its bytes, those of each place entropy coded together, bit for bit
as …      the tensor of that name: both share memory
========  =====================================================================================================

Zeros are left out and their positions coded. Rounding is of weights alone: inputs of layers stay as they were.
"""

import dataclasses
import json
import struct
import zlib
from typing import Any

import numpy as np
import torch
import torch.nn.utils.prune
from torch import nn

from studylib.coding import range_coder
from studylib.coding.codec import CodecError
from studylib.coding.magnitudes import class_edges
from studylib.coding.tensors import Tensors
from studylib.networks import grid

MAGIC, VERSION = b"SLNS", 1
HEAD = struct.Struct("<4sBII3B")  # magic, version, bytes of the list deflated and plain, edges of the classes
MOST_LIST = 2**22  # bytes of the list of tensors: some ten thousand
WEIGHTS = ("float32", "int8")
LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.MultiheadAttention)
TIED = "as "  # before the name of a tensor that another is, too
LARGEST = 1e38  # of a weight that is rounded: what integers stand for stays finite
CHUNK = 1024  # bytes between two updates of their counts


@dataclasses.dataclass(frozen=True)
class Compressed:
    """A network as a file.

    Attributes:
        file: what :func:`decode` reads.
        rows: of each tensor its ``name``, ``layer`` (the class it is of), ``shape`` and ``dtype``. ``before`` and
            ``bytes`` are its bytes in memory and in the file, ``how`` it is there. ``changed``: whether it is rounded
            and pruned where that is asked; of such, ``zeros`` is how many there are then. ``why`` it is not, where it
            has two dimensions or more.
    """

    file: bytes
    rows: list[dict[str, Any]]


class _Tensors(Tensors):
    """As its base, and numbers of any type by their bytes."""

    def raw(self, given: np.ndarray | None, count: int, size: int, kind: str) -> np.ndarray:
        """uint8 (count, size): the bytes of numbers; those of each place by how often ``kind`` had them there."""
        found = np.zeros((count, size), np.uint8)
        for place in range(size):
            counts = self._tops.setdefault(f"{kind}, byte {place}", np.ones(256, np.int64))
            for start in range(0, count, CHUNK):
                part = None if given is None else given[start : start + CHUNK, place]
                part = self.coder.symbols(part, counts, min(CHUNK, count - start))
                found[start : start + CHUNK, place] = part
                counts += 32 * np.bincount(part, minlength=256)
        return found

    def bytes_so_far(self) -> int:
        return self.coder._coder.num_bits() // 8


def compress(module: nn.Module, *, weights: str = "float32", sparsity: float = 0.0) -> Compressed:
    """The tensors of ``module`` as a file; the module is left as it is.

    float32 gives every number back bit for bit, but for the sign of a weight's zero. Rounded and pruned are the float32
    weights of :data:`LAYERS`. All else is in the file bit for bit.

    Args:
        weights: "int8" rounds each row of a weight to 256 levels (:mod:`studylib.networks.grid`).
        sparsity: share of these weights that becomes zero, the smallest of all layers together. Nothing is trained
            after it (Han et al. 2015 do).

    Raises:
        TypeError: ``module`` is no nn.Module.
        ValueError: unknown ``weights``, ``sparsity`` not from 0 to below 1. As CodecError a state that is not of
            tensors, or without memory. So is a list of tensors beyond :data:`MOST_LIST`.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"{type(module).__name__}: expected an nn.Module")
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r}: expected one of {', '.join(WEIGHTS)}")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity!r}: expected a share from 0 to below 1")
    rows, values = _rows(module)
    changed = [row["name"] for row in rows if row["name"] in values and row["changed"]]
    for name in changed:
        values[name] = torch.where(values[name] == 0, 0, values[name])  # a zero without its sign
    if sparsity:
        _prune(values, changed, float(sparsity))
    integers = {name: _round(values[name]) for name in changed} if weights == "int8" else {}
    edges = class_edges([whole for whole, _ in integers.values()])
    code = _Tensors(range_coder.Writer(), edges)
    for row in rows:
        name, start = row["name"], code.bytes_so_far()
        if name in values:
            row["how"] = "int8" if name in integers else "float32" if row["dtype"] == "float32" else "raw"
            given = integers[name] if name in integers else _bytes_of(values[name])
            decoded = _code(code, name, row["how"], values[name], given)
            row["zeros"] = int((decoded == 0).sum()) if row["changed"] else 0
        row["bytes"] = code.bytes_so_far() - start
    plain = json.dumps([[row[key] for key in ("name", "dtype", "shape", "how")] for row in rows]).encode()
    listed = zlib.compress(plain, 9)
    if len(plain) > MOST_LIST:
        raise CodecError(f"the list of tensors takes {len(plain)} bytes: expected at most {MOST_LIST}")
    head = HEAD.pack(MAGIC, VERSION, len(listed), len(plain), *edges)
    body = head + listed + code.coder.words().astype("<u4").tobytes()
    return Compressed(body + struct.pack("<I", zlib.crc32(body)), rows)


def decode(file: bytes, skeleton: nn.Module) -> nn.Module:
    """``skeleton`` with the numbers in ``file``, in evaluation mode; as it was where the file is refused.

    Nothing is decoded or allocated before names, types and shapes are seen to be those of the skeleton. A file so asks
    for no more memory than the skeleton takes a few times.

    Raises:
        studylib.coding.codec.CodecError: not such a file, of another version, damaged. The skeleton has other tensors
            than the file; the message names them. TypeError: not bytes, or no nn.Module.
    """
    if not isinstance(file, bytes | bytearray | memoryview) or not isinstance(skeleton, nn.Module):
        raise TypeError(f"{type(file).__name__}, {type(skeleton).__name__}: expected bytes and an nn.Module")
    entries, edges, words = _open(bytes(file))
    here, found = _tensors(skeleton), {}
    there = {name: about for name, about, _ in entries}
    if wrong := misfit(there, described(here), "the file", "the skeleton"):
        raise CodecError(wrong)
    code = _Tensors(range_coder.Reader(words), edges)
    try:
        for name, _, how in entries:
            other = how.removeprefix(TIED)
            if how != other and there[name] == there.get(other) and other in found:
                found[name] = found[other]
            else:
                found[name] = _code(code, name, how, here[name], None)
        code.coder.finish()
    except (range_coder.CodeError, CodecError) as error:
        raise CodecError(f"damaged: {error}") from error
    first: dict[tuple, str] = {}
    for name, tensor in here.items():
        other = first.setdefault(_memory(name, tensor), name)
        if found[other] is not found[name] and not np.array_equal(_bytes_of(found[other]), _bytes_of(found[name])):
            raise CodecError(f"{name} and {other} are one tensor in the skeleton: the file has two that differ")
    state, buffers = skeleton.state_dict(), dict(skeleton.named_buffers(remove_duplicate=False))
    skeleton.load_state_dict({name: found[name] for name in state})
    for name in found.keys() - state.keys():
        buffers[name].copy_(found[name])
    return skeleton.eval()


def described(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Name → type and shape in words."""
    return {name: f"{_type(tensor)} {tuple(tensor.shape)}" for name, tensor in tensors.items()}


def misfit(found: dict[str, str], expected: dict[str, str], here: str, there: str) -> str:
    """How the tensors of ``here``, described as ``found``, are not those of ``there``; empty where they are."""
    wrong = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    said = [
        f"{name} is {found.get(name, 'missing')} in {here}, {expected.get(name, 'missing')} in {there}"
        for name in wrong[:5]
    ]
    return "; ".join(said) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor of ``module`` by name, buffers that are not persistent last."""
    held = module.state_dict(keep_vars=True)
    held |= {name: t for name, t in module.named_buffers(remove_duplicate=False) if name not in held}
    for name, tensor in held.items():
        if not isinstance(tensor, torch.Tensor):
            raise CodecError(f"{name} is {type(tensor).__name__}: expected a tensor")
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin) or tensor.is_meta:
            raise CodecError(f"{name} has no numbers yet: expected a network in memory, its lazy layers run once")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CodecError(f"{name} is {tensor.dtype}, {tensor.layout}: expected numbers in a dense tensor")
    return {name: tensor.detach() for name, tensor in held.items()}


def _rows(module: nn.Module) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """What is known of each tensor before it is coded, and by name those to code, on the CPU."""
    rows, values, first = [], {}, {}
    owners = dict(module.named_modules(remove_duplicate=False))
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, tensor in _tensors(module).items():
        place, _, field = name.rpartition(".")
        owner, dtype, why = owners.get(place), _type(tensor), ""
        known = isinstance(owner, LAYERS) and "weight" in field and name in parameters
        if (large := tensor.dim() > 1 and tensor.numel() > 0) and not known:
            why = f"no weight of a layer that is known ({type(owner).__name__})"
        elif large and tensor.dtype != torch.float32:
            why = f"{dtype}, not float32"
        elif large and not (tensor.abs() < LARGEST).all():
            why = f"a number not finite, or beyond {LARGEST:g}"
        other = first.setdefault(_memory(name, tensor), name)
        if other == name:
            values[name] = tensor.cpu().contiguous()
        before = tensor.numel() * tensor.itemsize if other == name else 0
        rows.append({"name": name, "layer": type(owner).__name__, "shape": list(tensor.shape), "dtype": dtype})
        rows[-1] |= {"before": before, "how": TIED + other, "changed": large and not why, "why": why, "zeros": 0}
    return rows, values


def _memory(name: str, tensor: torch.Tensor) -> tuple:
    """Equal of two tensors that are one in memory."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.numel() or name


def _prune(values: dict[str, torch.Tensor], names: list[str], sparsity: float) -> None:
    """Makes the share ``sparsity`` of the tensors ``names`` together zero, those of least magnitude."""
    if names:
        flat = torch.cat([values[name].flatten() for name in names])
        keep = torch.nn.utils.prune.L1Unstructured(sparsity).compute_mask(flat, torch.ones_like(flat)).bool()
        for name, mask in zip(names, keep.split([values[name].numel() for name in names]), strict=True):
            values[name] = values[name].masked_fill(~mask.view(values[name].shape), 0)


def _round(weight: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The integers of ``weight`` (rows, …), int8 of its shape, and the scale of each row, float32."""
    rows = weight.flatten(1)
    scale = grid.steps(rows, 8)
    whole = (rows / scale).round().clamp(*grid.limits(8)).to(torch.int8)
    return whole.view(weight.shape).numpy(), scale[:, 0].numpy()


def _bytes_of(tensor: torch.Tensor) -> np.ndarray:
    """uint8 (*shape, bytes of a number)."""
    return tensor.reshape(-1).view(torch.uint8).numpy().reshape(*tensor.shape, tensor.itemsize)


def _code(code: _Tensors, name: str, how: str, like: torch.Tensor, given: Any) -> torch.Tensor:
    """Codes a tensor of the type and shape of ``like``, and returns it as it is decoded.

    ``given``: None to read, else integers and their scales where it is int8, or bytes (:func:`_bytes_of`).
    """
    shape, size, numbers = tuple(like.shape), like.itemsize, None
    if how == "int8" and like.dtype == torch.float32 and like.dim() > 1:
        whole, scales = given or (None, None)
        whole = code.integers(whole, shape)
        live, scale = whole.reshape(len(whole), -1).any(1), np.zeros(len(whole), np.float32)
        scale[live] = code.floats(None if given is None else scales[live], int(live.sum()), "scale 32")
        if not ((scale[live] > 0) & (scale[live] < LARGEST / 127)).all():
            raise CodecError(f"{name} has a scale that no rounding gives")
        return torch.from_numpy(whole * scale.reshape(-1, *[1] * (len(shape) - 1)))
    if how != ("float32" if like.dtype == torch.float32 else "raw"):
        raise CodecError(f"{name} is coded as {how!r}: there is no such way for {_type(like)} {shape}")
    mask = code.positions(None if given is None else given.any(-1), shape)
    count, field, found = int(mask.sum()), name.rpartition(".")[2], np.zeros((*shape, size), np.uint8)
    if given is not None:
        numbers = given[mask] if how == "raw" else given[mask].view(np.float32)[:, 0]
    if how == "raw":
        found[mask] = code.raw(numbers, count, size, _type(like))
    else:
        found[mask] = code.floats(numbers, count, f"{field} 32").view(np.uint8).reshape(count, size)
    return torch.from_numpy(found.reshape(-1)).view(like.dtype).reshape(shape)


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _open(file: bytes) -> tuple[list[tuple[str, str, str]], list[int], np.ndarray]:
    """The parts of a whole ``file``: of each tensor name, type with shape, way; edges; words to decode."""
    if file[:4] == b"SLNC":
        raise CodecError("a model of the study: expected a network of your own; coding.codec.decode reads it")
    if len(file) < HEAD.size + 4 or file[:4] != MAGIC:
        raise CodecError(f"not a compressed network: it starts with {file[:4]!r}, not {MAGIC!r}, or ends too early")
    _, version, deflated, plain, *edges = HEAD.unpack_from(file)
    if version != VERSION:
        raise CodecError(f"version {version}: this studylib reads version {VERSION}")
    if struct.unpack("<I", file[-4:])[0] != zlib.crc32(file[:-4]):
        raise CodecError("truncated or altered: the checksum does not match")
    words = file[HEAD.size + deflated : -4]
    if len(file) < HEAD.size + deflated + 4 or len(words) % 4 or sorted(edges) != edges or plain > MOST_LIST:
        raise CodecError("the header does not fit the file")
    try:
        text = zlib.decompressobj().decompress(file[HEAD.size : HEAD.size + deflated], plain + 1)
        entries = [(name, f"{dtype} {tuple(shape)}", how) for name, dtype, shape, how in json.loads(text)]
        if len({name for name, *_ in entries}) < len(entries) or not all(isinstance(e[2], str) for e in entries):
            raise ValueError("expected each name once, and ways in words")
    except (zlib.error, ValueError, TypeError, RecursionError) as error:
        raise CodecError(f"the list of tensors is damaged: {error}") from error
    return entries, edges, np.frombuffer(words, "<u4").astype(np.uint32)
