"""Removes a run and says what that frees; with the word all, every run and the virtual environments."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine.run.machine import hold, refusals


def main(run: str) -> None:
    runs = {path.name: path for path in sorted((ROOT / "runs").glob("*")) if path.is_dir()}
    if run != "all" and run not in runs:
        sys.exit(f"runs/{run}: no such run; expected PROFILE=all or one of {', '.join(runs) or 'none'}")
    doomed = [runs[name] for name in runs if run in (name, "all")]
    for path in doomed:
        hold(path)  # a run in progress is not removed
    for path in doomed + [ROOT / name for name in ("runs", ".snakemake", ".venv", ".venv-nncodec") if run == "all"]:
        with refusals(path, "what is left of it stays"):
            if path.is_symlink():
                path.unlink()
            elif path.exists():
                freed = sum(file.lstat().st_size for file in path.rglob("*") if not file.is_symlink()) / 1e6
                shutil.rmtree(path)
                print(f"{path.relative_to(ROOT)}: removed, {freed:.1f} MB freed")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
