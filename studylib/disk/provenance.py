"""Where numbers come from: commit, date, versions of packages, hardware."""

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

from studylib.disk.files import root


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` computes in bfloat16 faster than it emulates it, which takes ten times as long as float32."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def provenance(data: str = "") -> dict:
    """Where numbers made now come from: commit, date, package versions, hardware and, if given, images.

    ``data``: :attr:`studylib.data.datasets.Data.digest` of the images that they are about.
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


def _git_commit() -> str:
    """The commit of the study's folder, with ``+`` where tracked files were changed since; or "unknown".

    A folder that lies in the repository of something else has none.
    """

    def git(*args):
        return subprocess.run(["git", "-C", root(), *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != Path(root()).resolve():
            return "unknown"
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
