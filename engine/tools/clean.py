"""Removes a run and says what that frees; with the word all, every run and the virtual environments."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine.run.lock import hold
from engine.run.machine import refusals

EVERYTHING = ("runs", ".snakemake", ".venv", ".venv-nncodec")


def size(path: Path) -> float:
    """Megabytes of the files below ``path``."""
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6


def main(profile: str) -> None:
    runs = {path.name: path for path in sorted((ROOT / "runs").glob("*")) if path.is_dir()}
    if profile != "all" and profile not in runs:
        sys.exit(f"runs/{profile}: no such run; expected PROFILE=all or one of {', '.join(runs) or 'none'}")
    doomed = list(runs.values()) if profile == "all" else [runs[profile]]
    for path in doomed:
        hold(path)  # a run in progress is not removed
    for path in doomed + [ROOT / name for name in EVERYTHING if profile == "all"]:
        with refusals(path, "what is left of it stays"):
            if path.is_symlink():
                path.unlink()
            elif path.exists():
                freed = size(path)
                shutil.rmtree(path)
                print(f"{path.relative_to(ROOT)}: removed, {freed:.1f} MB freed")
    if left := [f"{path.relative_to(ROOT)} {size(path):.1f} MB" for path in runs.values() if path.exists()]:
        print(f"left: {', '.join(left)}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
