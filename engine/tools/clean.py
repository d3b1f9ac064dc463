"""Removes a run and says what that frees; with the word all, every run and the virtual environments."""

import difflib
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine.run.lock import hold
from engine.run.machine import refusals


def size(path: Path) -> int:
    return sum(file.lstat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def main(profile: str) -> None:
    if not profile or "/" in profile or profile.startswith("."):
        sys.exit(f"PROFILE={profile!r}: expected the name of a profile, or all")
    runs = sorted(path for path in (ROOT / "runs").glob("*") if path.is_dir())
    names = [path.name for path in runs]
    if profile != "all" and profile not in names:
        close = difflib.get_close_matches(profile, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(names) or 'none'}"
        sys.exit(f"runs/{profile}: no such run{hint}")
    doomed = [path for path in runs if profile in ("all", path.name)]
    for path in doomed:
        hold(path)  # a run in progress is not removed
    targets = (
        [*doomed, ROOT / "runs", ROOT / ".snakemake", ROOT / ".venv", ROOT / ".venv-nncodec"]
        if profile == "all"
        else doomed
    )
    total = 0
    for path in targets:
        with refusals(path, "what is left of it stays"):
            if path.is_symlink():
                path.unlink()
                continue
            if not path.exists():
                continue
            freed = size(path)
            shutil.rmtree(path)
            print(f"{path.relative_to(ROOT)}: removed, {freed / 1e6:.1f} MB freed")
            total += freed
    left = [path for path in runs if path.exists()]
    if left:
        print("left: " + ", ".join(f"runs/{path.name} {size(path) / 1e6:.1f} MB" for path in left))
    print(f"{total / 1e6:.1f} MB freed in all")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
