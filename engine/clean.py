"""Removes a run and says what that frees; with the word all, every run and the virtual environment."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink())


def main(profile: str) -> None:
    targets = ["runs", ".snakemake", ".venv"] if profile == "all" else [f"runs/{profile}"]
    if not profile or "/" in profile or profile.startswith("."):
        sys.exit(f"PROFILE={profile!r}: expected the name of a profile, or all")
    total = 0
    for path in (ROOT / name for name in targets):
        if path.exists():
            freed = size(path)
            shutil.rmtree(path)
            print(f"{path.relative_to(ROOT)}: removed, {freed / 1e6:.1f} MB freed")
            total += freed
        else:
            print(f"{path.relative_to(ROOT)}: nothing there")
    kept = {p.name: size(p) for p in sorted((ROOT / "runs").glob("*")) if p.is_dir()}
    if kept:
        print("left: " + ", ".join(f"runs/{name} {bytes_ / 1e6:.1f} MB" for name, bytes_ in kept.items()))
    print(f"{total / 1e6:.1f} MB freed in all")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
