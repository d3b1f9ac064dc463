"""Codes the int8 nodes of a run with nncodec, the reference software of ISO/IEC 15938-17, to compare our coder with.

nncodec (Fraunhofer HHI) needs numpy < 2, hence an environment of its own: ``make nncodec PROFILE=digits`` sets it up.
There nncodec_worker.py codes the int8 weights of each model's shipped form as integers, decodes them, and here they
are compared with what went in. Counted are the bytes of the bitstream, without the model's spec, and those of every
other tensor (scales, biases, activation parameters) as stored: nncodec quantizes floats, so models with float weights
are left out. The bytes of our coder include the spec.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import nn

from engine.settings.reading import ROOT
from studylib.coding import codec, shipped
from studylib.disk import files, provenance
from studylib.disk.models import SPEC, load_model

WORKER = Path(__file__).resolve().parent / "nncodec_worker.py"
PYTHON = ROOT / ".venv-nncodec" / "bin" / "python"
RESULT = "nncodec.json"
SECONDS = 3600  # that the worker may take; a million weights take it seconds
TAIL = 2000  # characters of the worker's last words in an error


def available(python: Path = PYTHON) -> bool:
    """Whether ``python`` is the interpreter of an environment that has nncodec."""
    command = [python, "-I", "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('nncodec') is None)"]
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def coded_bytes(models: dict[str, nn.Module], python: Path = PYTHON) -> dict[str, int]:
    """Bytes of each model by nncodec, under its name; models with float weights are left out.

    Raises:
        RuntimeError: the worker failed (its last words are in the message), or integers came back changed.
    """
    return code(models, python)[0]


def code(models: dict[str, nn.Module], python: Path) -> tuple[dict[str, int], str]:
    """What :func:`coded_bytes` returns, and nncodec's version ("" where no model was left to code)."""
    weights, rest = {}, {}
    for name, model in models.items():
        state = shipped.apply(model).state_dict()
        layers = {key: t for key, t in state.items() if key.rpartition(".")[2] == "weight"}
        if layers and all(t.dtype == torch.int8 for t in layers.values()):
            weights[name] = {key: t.numpy() for key, t in layers.items()}
            rest[name] = sum(t.numel() * t.element_size() for key, t in state.items() if key not in layers)
    if not weights:
        return {}, ""
    numbered = {f"{m}/{i}": t for m, each in enumerate(weights.values()) for i, t in enumerate(each.values())}
    coded, sizes = _run(numbered, python), {}
    try:
        for m, (name, each) in enumerate(weights.items()):
            for i, (key, tensor) in enumerate(each.items()):
                if not np.array_equal(coded[f"{m}/{i}"], tensor):
                    raise RuntimeError(f"{name}: nncodec gave back other integers than went in ({key})")
            sizes[name] = coded[f"{m}/bitstream"].nbytes + rest[name]
        return sizes, str(coded["version"])
    except KeyError as error:
        raise RuntimeError(f"{python}: the worker's answer lacks {error}") from error


def _run(tensors: dict[str, np.ndarray], python: Path) -> dict[str, np.ndarray]:
    """The worker's answer to ``tensors``; raises RuntimeError."""
    said = ""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(source, **tensors)
        command = [python, "-I", WORKER, source, target]  # -I: not this folder, whose nncodec.py the worker would find
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
            said = done.stderr[-TAIL:]
            if done.returncode:
                raise RuntimeError(f"{python}: nncodec failed ({done.returncode})\n{said}")
            with np.load(target, allow_pickle=False) as file:
                return dict(file)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"{python}: no readable answer ({error})\n{said}") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile")
    parser.add_argument("--python", type=Path, default=PYTHON, help="the interpreter of an environment with nncodec")
    args = parser.parse_args()
    if not available(args.python):
        sys.exit(f"{args.python}: no Python that has nncodec; make nncodec PROFILE={args.profile} sets one up")
    run = files.resolve(f"runs/{args.profile}")
    seeds: dict[str, list[Path]] = {}
    for path in sorted(run.glob(f"seed*/*/{SPEC}")):
        seeds.setdefault(path.parents[1].name, []).append(path.parent)
    if not seeds:
        sys.exit(f"{run}: no nodes here; make study PROFILE={args.profile} makes them")
    sizes, version = {}, ""
    print(f"{'seed':8}{'node':32}{'nncodec':>10}{'ours':>10}{'ours / nncodec':>17}   (bytes)", flush=True)
    for seed, folders in seeds.items():
        models = {folder.name: load_model(folder) for folder in folders}
        sizes[seed], said = code(models, args.python)
        version = said or version
        for node, size in sizes[seed].items():
            ours = len(codec.encode(models[node]))
            print(f"{seed:8}{node:32}{size:10}{ours:10}{ours / size:17.3f}", flush=True)
    files.write_json(run / RESULT, {"bytes_nncodec": sizes, "version": version, "provenance": provenance.provenance()})


if __name__ == "__main__":
    main()
