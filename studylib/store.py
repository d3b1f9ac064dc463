"""Models and numbers on disk: written whole or not at all, self-describing, checked on load.

A model's folder holds ``model.safetensors`` (its tensors) and ``model.json`` (its spec and the checksums of
both). Nothing is ever pickled.
"""

import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from studylib import models
from studylib.recipe import has_bfloat16

TENSORS, SPEC = "model.safetensors", "model.json"


REMEDY = "; delete the folder and run the study again to have it made anew"


class CheckpointError(RuntimeError):
    """A file that is missing, damaged or not what it should be; the message names it."""


@functools.cache
def root() -> Path:
    """The study's folder: ``STUDY_ROOT``, or the nearest folder above that holds ``papermill_params``."""
    if os.environ.get("STUDY_ROOT"):
        return Path(os.environ["STUDY_ROOT"]).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if (folder / "papermill_params").is_dir():
            return folder
    return here


def resolve(path: str | Path) -> Path:
    """``path`` as it is if absolute, else below :func:`root`, wherever the notebook runs."""
    return root() / path


def write_bytes(path: Path, content: bytes) -> None:
    """Writes ``content`` to ``path`` in one step: a reader sees the old file or the new one.

    Raises:
        OSError: the machine cannot, for want of space or leave; it names ``path``.
    """
    write_files({Path(path): content})


def write_files(contents: dict[Path, bytes]) -> None:
    """Writes path → content as :func:`write_bytes` does, the first of them once there is room for all."""
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
    """Raises CheckpointError, naming the file, when it is missing or not JSON; OSError where it cannot be read."""
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
    """The bytes of a safetensors file, ``about`` in its header.

    Tensors may lie in memory in any order (channels last) and share it (weights that layers have in common): each is
    in the file by itself.
    """
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    return safetensors.torch.save(plain, about)


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors (on the CPU) and what :func:`write_tensors` said about them.

    Raises:
        CheckpointError: no such file, or not one that :func:`write_tensors` wrote.
        OSError: the machine cannot read it.
    """
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


def save_model(folder: Path, model: nn.Module) -> None:
    """Writes ``model`` and its spec to ``folder``; the spec last, so that a half-written pair is noticed.

    A weight that several layers share is written for each of them.

    Raises:
        studylib.models.SpecError: :func:`load_model` could not build it again (:func:`studylib.models.rebuilt`);
            nothing is written.
        OSError: the machine cannot write it.
    """
    folder, spec = Path(folder), models.rebuilt(model).spec
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
        model = models.build(spec)
    except models.SpecError as error:
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
    if _file_digest(folder / TENSORS) != content.get("sha256"):
        raise CheckpointError(f"{folder / TENSORS}: truncated or altered (not the SHA-256 in {SPEC}){REMEDY}")
    return content["spec"]


def _how_to_make(folder: Path) -> str:
    """The command that makes a folder below ``runs/``, if it is one."""
    try:
        run = folder.resolve().relative_to(root() / "runs").parts[0]
    except (ValueError, IndexError):
        return ""
    return f". In {root()}, this makes it:  make study PROFILE={run}"


def _digest(content: dict) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance(data: str = "") -> dict:
    """Where numbers made now come from: commit, date, package versions, hardware and, if given, images.

    Args:
        data: :attr:`studylib.data.Data.digest` of the images that they are about.
    """
    packages = ("torch", "torchvision", "torchao", "numpy", "scikit-learn", "safetensors")
    return ({"data_sha256": data} if data else {}) | {
        "git_commit": _git_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "hardware": _hardware(),
        "threads": torch.get_num_threads(),
    }


def code_digest() -> str:
    """SHA-256 of studylib's modules: whether unfinished results were made by the code as it is now."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _git_commit() -> str:
    """The commit of the study's folder, with ``+`` where tracked files were changed since; or "unknown"."""

    def git(*args):
        return subprocess.run(["git", "-C", root(), *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = next(line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    how = "with" if has_bfloat16(torch.device("cpu")) else "without"  # what amp=True computes in depends on it
    return f"{name}, {os.cpu_count()} cores, {how} bfloat16"
