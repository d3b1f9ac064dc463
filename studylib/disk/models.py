"""A model on disk: its tensors, its spec, and the checksums of both. Nothing is ever pickled."""

import hashlib
import json
import re
from pathlib import Path

from torch import nn

from studylib.disk.files import CheckpointError, file_digest, read_json, read_tensors, root, safetensors_of, write_files
from studylib.networks.blocks import SpecError
from studylib.networks.spec import build, rebuilt

TENSORS, SPEC = "model.safetensors", "model.json"
REMEDY = "; delete the folder and run the study again to have it made anew"


def save_model(folder: Path, model: nn.Module) -> None:
    """Writes ``model`` and its spec to ``folder``; the spec last, so that a half-written pair is noticed.

    A weight that several layers share is written for each of them.

    Raises:
        SpecError: :func:`load_model` could not build it again (:func:`studylib.networks.spec.rebuilt`); nothing is
            written.
        OSError: the machine cannot write it.
    """
    folder, spec = Path(folder), rebuilt(model).spec
    tensors = safetensors_of(model.state_dict())
    content = {"spec": spec, "sha256": hashlib.sha256(tensors).hexdigest()}
    line = json.dumps({**content, "check": _digest(content)}, ensure_ascii=False, separators=(",", ":"))
    write_files({folder / TENSORS: tensors, folder / SPEC: line.encode()})


def load_model(folder: Path) -> nn.Module:
    """Rebuilds the model in ``folder``, in evaluation mode on the CPU.

    Raises:
        CheckpointError: a file is missing, truncated, altered, or does not fit the spec; names the file.
    """
    folder = Path(folder)
    spec = verify(folder)
    try:
        model = build(spec)
    except SpecError as error:
        raise CheckpointError(f"{folder / SPEC}: {error}") from error
    tensors, _ = read_tensors(folder / TENSORS)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{folder / TENSORS}: does not fit its spec ({error})") from error
    return model.eval()


def verify(folder: Path) -> dict:
    """The spec of the model in ``folder``, both files checked against their checksums.

    Raises:
        CheckpointError: a file is missing, truncated or altered; names the file.
    """
    folder = Path(folder)
    if not (folder / SPEC).exists() and not (folder / TENSORS).exists():
        raise CheckpointError(f"{folder}: no model here{_how_to_make(folder)}")
    content = read_json(folder / SPEC)
    if not isinstance(content, dict) or content.pop("check", None) != _digest(content) or "spec" not in content:
        raise CheckpointError(f"{folder / SPEC}: altered since it was written (its checksum does not match){REMEDY}")
    if not (folder / TENSORS).exists():
        raise CheckpointError(f"{folder / TENSORS}: no such file{REMEDY}")
    if file_digest(folder / TENSORS) != content.get("sha256"):
        raise CheckpointError(f"{folder / TENSORS}: truncated or altered (not the SHA-256 in {SPEC}){REMEDY}")
    return content["spec"]


def _how_to_make(folder: Path) -> str:
    """The command that makes a folder below ``runs/``, with the seed of its own where it is one of a seed."""
    try:
        run, *parts = folder.resolve().relative_to(root() / "runs").parts
    except ValueError:
        return ""
    profile, _, variant = run.partition("-")
    seed = re.fullmatch(r"seed(\d+)", parts[0]) if parts else None
    asked = [f"PROFILE={profile}", f"VARIANT={variant}" if variant else "", f"SEEDS={seed[1]}" if seed else ""]
    return f". In {root()}, this makes it:  make study {' '.join(filter(None, asked))}"


def _digest(content: dict) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
