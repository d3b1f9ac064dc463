"""Files written whole or not at all, and checked when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from studylib.data.paths import resolve as resolve  # as names of this module, too
from studylib.data.paths import root as root

if TYPE_CHECKING:  # a command that reads JSON alone is spared two seconds of import
    import torch


class CheckpointError(RuntimeError):
    """A file that is missing, damaged or not what it should be; the message names it."""


def write_bytes(path: Path, content: bytes) -> None:
    """As :func:`write_files`, a single file."""
    write_files({Path(path): content})


def write_files(contents: dict[Path, bytes]) -> None:
    """Writes path → content once there is room for all. A reader sees a file's old or new content, never a part.

    OSError, which names the path, where the machine cannot, for want of space or leave.
    """
    temporaries: dict[Path, str] = {}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporaries[path] = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporaries[path], 0o666 & ~umask)
        for path, temporary in temporaries.items():
            os.replace(temporary, path)
    except BaseException as error:
        for temporary in temporaries.values():
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename, error.filename2 = str(path), None  # not the temporary, which nobody knows
        raise


def write_json(path: Path, value) -> None:
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path):
    """CheckpointError, naming the file, when it is missing or not JSON; OSError where it cannot be read."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], about: dict | None = None) -> None:
    """One safetensors file; ``about`` (JSON data) goes into its header."""
    write_bytes(path, safetensors_of(tensors, {"about": json.dumps(about)} if about else None))


def safetensors_of(tensors: dict[str, torch.Tensor], about: dict[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file, ``about`` in its header; tensors may share memory or be channels last."""
    import safetensors.torch
    import torch

    layout = torch.contiguous_format
    plain = {name: tensor.detach().cpu().clone(memory_format=layout) for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, about)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors (on the CPU) and what :func:`write_tensors` said about them.

    CheckpointError: no such file, or none that :func:`write_tensors` wrote; OSError: the machine cannot read it.
    """
    import safetensors

    try:
        with open(path, "rb"):  # safetensors has one error for a file that is damaged and one that cannot be opened
            pass
        with safetensors.safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            if not isinstance(about, dict):
                raise ValueError(f"about is {about!r}: expected an object")
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118 (it is no dict)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes; OSError where it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
