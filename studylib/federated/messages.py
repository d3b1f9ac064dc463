"""What travels: tensors that two sides know by name and shape, as few bytes, by the codec's tensor coder.

::

    SLNF | form | classes' edges | digest of names and shapes | range-coded tensors | CRC-32

Differences to what the other side has are rounded and pruned. What that leaves out is added to the next difference
(error feedback: Seide et al. 2014; Karimireddy et al. 2019).
"""

import hashlib
import json
import struct
import zlib

import numpy as np
import torch

from studylib.coding import range_coder
from studylib.coding.magnitudes import class_edges
from studylib.coding.tensors import Tensors
from studylib.networks import grid

MAGIC = b"SLNF"
HEAD = struct.Struct("<4sB3B4s")  # magic, form, edges of the classes, digest of names and shapes
FORMS = ("float32", "float16", "int8", "int4")
BITS = {"int8": 8, "int4": 4}  # of the numbers of tensors of two dimensions and more; others are float16 then

State = dict[str, torch.Tensor]


class MessageError(ValueError):
    """A message that cannot be used; ``kind`` says why in a word or two, the message in a sentence."""

    def __init__(self, kind: str, said: str):
        super().__init__(said)
        self.kind = kind


def floats(state: State) -> State:
    """What of a network's state travels: its float tensors, detached, on the CPU. Counters stay at home."""
    return {name: tensor.detach().cpu().float() for name, tensor in state.items() if tensor.is_floating_point()}


def encode(given: State, form: str = "float32", pruned: float = 0.0) -> bytes:
    """``given`` (float32) as a message; :func:`decode` says what the other side then has.

    Args:
        form: float32 is bit for bit, float16 rounded. In int8 and int4 each row has so many bits and a scale
            (:mod:`studylib.networks.grid`). Tensors of one dimension are in float16 then.
        pruned: share of the numbers of two dimensions and more that become zero, the smallest of all.

    Raises:
        ValueError: an unknown form, or a share not from 0 to below 1.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}: expected one of {', '.join(FORMS)}")
    if not 0 <= pruned < 1:
        raise ValueError(f"pruned={pruned!r}: expected a share from 0 to below 1")
    given = dict(sorted(given.items()))  # states that were read from a file are in this order
    least = _threshold(given, pruned)
    kept = {n: torch.where(t.abs() > least, t, 0.0) if t.dim() > 1 and pruned else t for n, t in given.items()}
    whole = {n: _round(t, BITS[form]) for n, t in kept.items() if t.dim() > 1} if form in BITS else {}
    edges = class_edges([each for each, _ in whole.values()])
    code = Tensors(range_coder.Writer(), edges)
    for name, tensor in kept.items():
        _code(code, form, tuple(tensor.shape), whole.get(name, tensor.numpy()))
    head = HEAD.pack(MAGIC, FORMS.index(form), *edges, _shapes(given))
    body = head + code.coder.words().astype("<u4").tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def decode(message: bytes, like: State) -> State:
    """The tensors in ``message``, of the names and shapes of ``like``.

    Nothing is allocated before these are seen to be the same.

    Raises:
        MessageError: "damaged", or "other shapes".
    """
    if len(message) < HEAD.size + 4 or message[:4] != MAGIC or len(message) % 4 != (HEAD.size % 4):
        raise MessageError("damaged", f"not a message: it starts with {message[:4]!r}, or ends too early")
    if struct.unpack("<I", message[-4:])[0] != zlib.crc32(message[:-4]):
        raise MessageError("damaged", "truncated or altered: the checksum does not match")
    _, form, *edges, shapes = HEAD.unpack_from(message)
    if shapes != _shapes(like):
        raise MessageError("other shapes", "the tensors have other names or shapes than were asked for")
    if form >= len(FORMS) or sorted(edges) != edges:
        raise MessageError("damaged", "the header does not fit a message")
    words = np.frombuffer(message[HEAD.size : -4], "<u4").astype(np.uint32)
    code = Tensors(range_coder.Reader(words), edges)
    try:
        found = {name: _code(code, FORMS[form], tuple(like[name].shape), None) for name in sorted(like)}
        code.coder.finish()
    except range_coder.CodeError as error:
        raise MessageError("damaged", f"damaged: {error}") from error
    return found


def check(found: State, like: State) -> None:
    """MessageError where ``found`` has other names or shapes than ``like``, or a number that is not finite."""
    if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in like.items()}:
        wrong = next(iter({**like, **found}.keys() ^ found.keys()), None) or next(
            n for n in like if n not in found or found[n].shape != like[n].shape
        )
        raise MessageError("other shapes", f"{wrong}: expected {tuple(like[wrong].shape) if wrong in like else 'none'}")
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise MessageError("not finite", f"{name} holds NaN or infinity")


def plus(a: State, b: State) -> State:
    return {name: tensor + b[name] for name, tensor in a.items()}


def minus(a: State, b: State) -> State:
    return {name: tensor - b[name] for name, tensor in a.items()}


def _shapes(state: State) -> bytes:
    text = json.dumps([[name, list(state[name].shape)] for name in sorted(state)])
    return hashlib.sha256(text.encode()).digest()[:4]


def _threshold(given: State, pruned: float) -> float:
    """The magnitude at or below which numbers become zero."""
    sizes = [tensor.abs().flatten() for tensor in given.values() if tensor.dim() > 1]
    many = torch.cat(sizes) if sizes else torch.zeros(0)
    count = int(pruned * len(many))
    return many.kthvalue(count).values.item() if count else -1.0


def _round(tensor: torch.Tensor, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 of the shape of ``tensor``, and the scale of each row."""
    rows = tensor.flatten(1)
    scale = grid.steps(rows, bits)
    whole = grid.integers(rows, scale, bits).nan_to_num(0).to(torch.int8)
    return whole.view(tensor.shape).numpy(), scale[:, 0].numpy()


def _code(code: Tensors, form: str, shape: tuple[int, ...], given) -> torch.Tensor:
    """Codes a tensor of ``shape``, and returns it as it is decoded; ``given`` None: to read."""
    if form in BITS and len(shape) > 1:
        whole, scales = given or (None, None)
        whole = code.integers(whole, shape)
        live, scale = whole.reshape(len(whole), -1).any(1), np.zeros(len(whole), np.float32)
        scale[live] = code.floats(None if given is None else scales[live], int(live.sum()), "scale 32")
        return torch.from_numpy(whole * scale.reshape(-1, *[1] * (len(shape) - 1)))
    kind = "32" if form == "float32" else "16"
    mask = code.positions(None if given is None else np.isnan(given) | (given != 0), shape)
    found = np.zeros(shape, np.float32)
    found[mask] = code.floats(None if given is None else _half(given[mask], kind), int(mask.sum()), kind)
    return torch.from_numpy(found)


def _half(values: np.ndarray, kind: str) -> np.ndarray:
    """As they are, or of the range of float16, so that a large one does not become infinite."""
    return values if kind == "32" else np.clip(values, -65504, 65504)
