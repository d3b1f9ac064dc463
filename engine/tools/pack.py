"""A run as one archive, to go on with it on another machine.

    python engine/tools/pack.py pack PROFILE [ARCHIVE]
    python engine/tools/pack.py unpack ARCHIVE

The archive is a tar file of the run's folder, with unfinished trainings. It also has what Snakemake has recorded of
those files: parameters, code, inputs. The SHA-256 of all that ends it. ``snakemake --touch`` would record anew, and so
call current whatever it finds. Unpacking verifies first and never overwrites a run.
"""

import argparse
import base64
import contextlib
import hashlib
import os
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine.run.lock import hold
from engine.run.machine import refusals

RECORDS = ".snakemake/metadata"
NOTHING, UNCHANGED = "nothing was written", "nothing was changed"
NAME = r"[a-z][a-z0-9_]*(-[a-z][a-z0-9_]*)?"  # of a run: profile, or profile-variant
CHUNK, DIGEST = 2**20, 32  # bytes


def pack(name: str, archive: Path) -> None:
    """Writes runs/``name`` to ``archive``: complete, or not there. In the run's folder nothing is written."""
    run = ROOT / "runs" / name
    if not re.fullmatch(NAME, name) or not run.is_dir():
        found = sorted(path.name for path in (ROOT / "runs").glob("*") if path.is_dir())
        sys.exit(f"runs/{name}: no such run; there is {', '.join(found) or 'none'}")
    held = hold(run, reading=True)  # a run in progress would change under our hands

    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not member.isfile() and not member.isdir():
            sys.exit(f"{member.name}: expected a file, found a link; {NOTHING}")
        return None if member.name == f"runs/{name}/.lock" else member

    with refusals(archive, NOTHING):
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".pack") as folder:
            whole = Path(folder) / "archive"
            with tarfile.open(whole, "w") as tar:
                tar.add(run, f"runs/{name}", filter=kept)
                if not (count := sum(member.isfile() for member in tar.getmembers())):
                    sys.exit(f"runs/{name}: no file in it yet; {NOTHING}")
                for path in sorted((ROOT / RECORDS).glob("*")):
                    if _about(path.name, name):
                        tar.add(path, f"{RECORDS}/{path.name}")
            with open(whole, "rb+") as file:
                file.write(hashlib.file_digest(file, "sha256").digest())
            if held is None and (run / ".lock").exists():
                sys.exit(f"runs/{name}: a command has begun to write there meanwhile; {NOTHING}")
            os.replace(whole, archive)
        print(f"{archive}: runs/{name}, {count} files, {archive.stat().st_size / 1e6:.1f} MB")


def unpack(archive: Path) -> None:
    """Puts the run in ``archive`` below runs/, its files as old as they were: all of it, or nothing."""
    with refusals(archive, UNCHANGED), open(archive, "rb") as file:
        try:
            tar, name = _opened(file)
        except (ValueError, tarfile.TarError) as error:
            why = str(error) if isinstance(error, ValueError) else "no tar file"
            sys.exit(f"{archive}: not an archive of make pack, or damaged: {why}")
        if (ROOT / "runs" / name).exists():
            sys.exit(f"runs/{name}: there already; `make clean PROFILE={name}` removes it, {UNCHANGED}")
        with refusals(ROOT / "runs", UNCHANGED):
            _put(tar, name)
    profile, _, variant = name.partition("-")
    again = f"make study PROFILE={profile}" + (f" VARIANT={variant}" if variant else "")
    print(f"runs/{name}: unpacked from {archive}; `{again}` goes on")


def _opened(file: BinaryIO) -> tuple[tarfile.TarFile, str]:
    """The archive and the name of its run, after a check that it is whole and holds one run only.

    Raises:
        ValueError, tarfile.TarError: it is not as :func:`pack` writes it.
    """
    whole = hashlib.sha256()
    for left in range(os.fstat(file.fileno()).st_size - DIGEST, 0, -CHUNK):
        whole.update(file.read(min(left, CHUNK)))
    if whole.digest() != file.read():
        raise ValueError("its checksum is another")
    file.seek(0)
    tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (closed with the file)
    kinds: dict[PurePosixPath, bool] = {}  # path → whether it is a folder
    name = (tar.getnames() or [""])[0].removeprefix("runs/")
    if not re.fullmatch(NAME, name):
        raise ValueError(f"run {name!r}: expected the name of a run")
    for member in tar.getmembers():
        path = PurePosixPath(member.name)
        record = path.parent == PurePosixPath(RECORDS) and _about(path.name, name)
        if ".." in path.parts or not (record or path.is_relative_to(f"runs/{name}")):
            raise ValueError(f"{member.name}: it has no place in this run")
        if member.issparse() or not (member.isfile() or member.isdir()):
            raise ValueError(f"{member.name}: expected a file or a folder")
        if path in kinds or not all(kinds.get(above, True) for above in path.parents):
            raise ValueError(f"{member.name}: it, or a file in the place of its folder, is there twice")
        kinds[path] = member.isdir()
    return tar, name


def _put(tar: tarfile.TarFile, name: str) -> None:
    """Extracts beside the run's place, on the same file system, and then moves everything: all of it, or nothing."""
    runs, records, moved = ROOT / "runs", ROOT / RECORDS, []
    made = [folder for folder in (records, records.parent, runs) if not folder.exists()]
    try:
        runs.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=runs, prefix=".unpack", ignore_cleanup_errors=True) as folder:
            tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
            records.mkdir(parents=True, exist_ok=True)
            for path in (Path(folder) / RECORDS).glob("*"):
                moved.append(records / path.name)
                shutil.move(path, moved[-1])
            os.replace(Path(folder) / "runs" / name, runs / name)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        for folder in made:
            with contextlib.suppress(OSError):  # it was not made, or has got something of another command
                folder.rmdir()
        raise


def _about(record: str, name: str) -> bool:
    """Whether a record of Snakemake's, called by its file's path in base 64, is of this run."""
    try:
        return base64.b64decode(record, validate=True).startswith(f"runs/{name}/".encode())
    except ValueError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["pack", "unpack"])
    parser.add_argument("name", help="pack: the run; unpack: the archive")
    parser.add_argument("archive", nargs="?", default="")
    args = parser.parse_args()
    if args.what == "pack":
        pack(args.name, Path(args.archive or f"{args.name}.tar").absolute())
    elif args.name:
        unpack(Path(args.name).absolute())
    else:
        sys.exit("ARCHIVE: expected the file that make pack wrote")


if __name__ == "__main__":
    main()
