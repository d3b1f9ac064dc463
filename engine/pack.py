"""A run as one archive, to go on with it on another machine.

    python engine/pack.py pack PROFILE [ARCHIVE]
    python engine/pack.py unpack ARCHIVE

The archive (tar) has the run's folder, unfinished trainings and all, what Snakemake knows of its files, and a list of
checksums. Unpacking checks every one before anything of it is put in its place, and writes over no run.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.lock import hold

RECORDS, LIST = ROOT / ".snakemake" / "metadata", "checksums.json"
NAME = r"[a-z][a-z0-9_]*(-[a-z][a-z0-9_]*)?"  # of a run: profile, or profile-root


def pack(name: str, archive: Path) -> None:
    """Writes runs/``name`` to ``archive``: complete, or not there."""
    run = ROOT / "runs" / name
    if not re.fullmatch(NAME, name) or not run.is_dir():
        found = sorted(path.name for path in (ROOT / "runs").glob("*") if path.is_dir())
        sys.exit(f"runs/{name}: no such run; there is {', '.join(found) or 'none'}")
    hold(run)  # a run in progress would change under our hands
    members = {path.relative_to(ROOT).as_posix(): path for path in sorted(run.rglob("*"))}
    members |= {f"records/{path.name}": path for path in sorted(RECORDS.glob("*")) if _about(path.name, name)}
    members = {at: path for at, path in members.items() if path.is_file() and path.name != ".lock"}
    if links := [at for at, path in members.items() if path.is_symlink()]:
        sys.exit(f"{links[0]}: expected a file, found a link; nothing was written")
    sums = {at: _checksum(path) for at, path in members.items()}
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".pack") as folder:
        (Path(folder) / LIST).write_text(json.dumps({"run": name, "files": sums}, indent=1))
        with tarfile.open(Path(folder) / "archive", "w") as tar:
            tar.add(Path(folder) / LIST, LIST)
            for at, path in members.items():
                tar.add(path, at)
        os.replace(Path(folder) / "archive", archive)
    print(f"{archive}: runs/{name}, {len(members)} files, {archive.stat().st_size / 1e6:.1f} MB")


def unpack(archive: Path) -> None:
    """Puts the run in ``archive`` below runs/, its files as old as they were."""
    try:
        with tarfile.open(archive) as tar, tempfile.TemporaryDirectory(dir=ROOT, prefix=".unpack") as folder:
            for member in tar.getmembers():  # Python before 3.11.4 has no filter that refuses what would land elsewhere
                path = Path(member.name)
                if not member.isfile() or path.is_absolute() or ".." in path.parts:
                    raise ValueError(f"{member.name}: expected files inside the archive's own folder")
            tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
            _take(Path(folder), archive)
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"{archive}: not an archive of make pack, or damaged: {error}")


def _take(folder: Path, archive: Path) -> None:
    about = json.loads((folder / LIST).read_text())
    name, sums = about["run"], about["files"]
    if not re.fullmatch(NAME, name):
        raise ValueError(f"run {name!r}: expected the name of a run")
    run = ROOT / "runs" / name
    if run.exists():
        sys.exit(f"runs/{name}: there already; `make clean PROFILE={name}` removes it, nothing was changed")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {LIST}
    for at in sorted(found ^ set(sums)):
        raise ValueError(f"{at}: {'listed and missing' if at in sums else 'there and not listed'}")
    for at, checksum in sums.items():
        if not at.startswith((f"runs/{name}/", "records/")) or _checksum(folder / at) != checksum:
            raise ValueError(f"{at}: its checksum is another, or it has no place in this run")
    RECORDS.mkdir(parents=True, exist_ok=True)
    for path in (folder / "records").glob("*"):
        if not _about(path.name, name):
            raise ValueError(f"records/{path.name}: it is of another run")
        shutil.move(path, RECORDS / path.name)
    run.parent.mkdir(exist_ok=True)
    os.replace(folder / "runs" / name, run)
    print(
        f"runs/{name}: {len(sums)} files from {archive}; `make study PROFILE={name.partition('-')[0]}"
        f"{' ROOT=' + name.partition('-')[2] if '-' in name else ''}` goes on"
    )


def _about(record: str, name: str) -> bool:
    """Whether a record of Snakemake's, called by its file's path in base 64, is of this run."""
    try:
        return base64.b64decode(record, validate=True).startswith(f"runs/{name}/".encode())
    except ValueError:
        return False


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["pack", "unpack"])
    parser.add_argument("name", help="pack: the run; unpack: the archive")
    parser.add_argument("archive", nargs="?", default="")
    args = parser.parse_args()
    if args.what == "pack":
        pack(args.name, Path(args.archive or f"{args.name}.tar").absolute())
    elif not args.name:
        sys.exit("ARCHIVE: expected the file that make pack wrote")
    else:
        unpack(Path(args.name).absolute())


if __name__ == "__main__":
    main()
