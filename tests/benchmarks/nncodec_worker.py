"""Codes integer tensors with nncodec and decodes them again: what nncodec.py runs in nncodec's environment.

``python -I nncodec_worker.py IN.npz OUT.npz``. IN.npz holds int8 tensors as ``model/tensor``, both counted from 0.
OUT.npz holds what each model's bitstream decodes to under the same names, the bitstream as ``model/bitstream`` (uint8),
and nncodec's ``version``. What needs another model to predict from (temporal contexts, histories) is not tried.
"""

import contextlib
import importlib.metadata
import itertools
import sys

import numpy as np
from nncodec import nnc
from nncodec.nnc_core.approximator import codebook

HEAD = 3  # units before the first tensor: start, parameter set, topology (left open)
PLAIN = {"cabac_unary_length_minus1": 0, "param_opt": True, "row_skipping": False}
# Ways of coding, the smallest of which is kept for each tensor: DeepCABAC with and without initial states and rates of
# its contexts (param_opt) and skipped rows; scans in blocks of 8 to 64; a codebook of the values that occur.
INTEGERS = [
    {"cabac_unary_length_minus1": unary, "param_opt": optimized, "row_skipping": skip}
    for unary, optimized, skip in itertools.product((0, 1, 2, 4, 10), (True, False), (True, False))
]
BLOCKS = [PLAIN | {"scan_order": order} for order in (1, 2, 3, 4)]
# Only for floats: with quantization parameter 0 a step is 1, and integers are kept.
CODEBOOKS = [PLAIN | {"row_skipping": skip, "codebook_mode": 1, "qp": 0} for skip in (True, False)]


def code(tensors: list[np.ndarray]) -> tuple[bytes, list[np.ndarray]]:
    """The bitstream of ``tensors``, each coded as makes it smallest, and what it decodes to.

    Each tensor's data unit says how it is coded, so that units of several bitstreams make one.

    Raises:
        ValueError: no way of coding a tensor gave it back exactly.
    """
    best: list[bytes | None] = [None] * len(tensors)
    matrices = all(len(t) > 1 and t[0].size > 1 for t in tensors)  # nncodec scans no single row or column in blocks
    for options in [*INTEGERS, *(BLOCKS if matrices else []), *CODEBOOKS]:
        dtype = np.float32 if "codebook_mode" in options else np.int32
        named = {str(i): t.astype(dtype) for i, t in enumerate(tensors)}  # short: each name is in the bitstream
        stream = nnc.compress(named, bitstream_path=None, return_bitstream=True, use_dq=False, **options)
        decoded = nnc.decompress(stream)
        head, coded = units(stream)
        for i, tensor in enumerate(tensors):
            if (best[i] is None or len(coded[i]) < len(best[i])) and np.array_equal(decoded[str(i)], tensor):
                best[i] = coded[i]
    if None in best:
        raise ValueError(f"tensor {best.index(None)}: no setting codes it losslessly")
    stream = b"".join([head, *best])
    decoded = nnc.decompress(bytearray(stream))
    return stream, [decoded[str(i)] for i in range(len(tensors))]


def units(stream: bytearray) -> tuple[bytes, list[bytes]]:
    """What stands before the first tensor of a bitstream, and the data unit of each tensor."""
    found, at = [], 0
    while at < len(stream):  # a unit begins with its length: a bit 0 and 15 bits, or a bit 1 and 31 bits
        size = int.from_bytes(stream[at : at + 2], "big")
        if size >> 15:
            size = int.from_bytes(stream[at : at + 4], "big") & 0x7FFFFFFF
        found.append(bytes(stream[at : at + size]))
        at += size
    return b"".join(found[:HEAD]), found[HEAD:]


def most_frequent(values: np.ndarray, indices: np.ndarray, _: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The codebook, the indices less that of the value coded as 0, and that index: the most frequent value's.

    In place of nncodec's search, which codes the tensor once for each of its values: minutes for a million weights.
    """
    zero = int(np.bincount(indices.ravel()).argmax())
    return values, indices - zero, zero


def main(source: str, target: str) -> None:
    codebook.get_codebook_offset = most_frequent
    models: dict[str, dict[int, np.ndarray]] = {}
    with np.load(source, allow_pickle=False) as file:
        for name in file.files:
            model, _, tensor = name.partition("/")
            models.setdefault(model, {})[int(tensor)] = file[name]
    out = {"version": np.array(importlib.metadata.version("nncodec"))}
    for model, tensors in models.items():
        stream, decoded = code([tensors[i] for i in range(len(tensors))])
        out[f"{model}/bitstream"] = np.frombuffer(stream, np.uint8)
        out |= {f"{model}/{i}": t for i, t in enumerate(decoded)}
    np.savez(target, **out)


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # nncodec tells of what it does
        main(*sys.argv[1:])
