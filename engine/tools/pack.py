"""A run as one archive, to go on with it on another machine.

    python engine/tools/pack.py pack PROFILE [ARCHIVE]
    python engine/tools/pack.py unpack ARCHIVE

The archive (tar) has the run's folder, unfinished trainings and all, what Snakemake knows of its files, and a list of
checksums. Unpacking checks every one before anything of it is put in its place, and writes over no run.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine.run.lock import hold
from engine.run.machine import refusals
from studylib.disk.files import file_digest

RECORDS, LIST = ROOT / ".snakemake" / "metadata", "checksums.json"
LONGEST = 2**26  # bytes of the list
NOTHING, UNCHANGED = "nothing was written", "nothing was changed"
NAME = r"[a-z][a-z0-9_]*(-[a-z][a-z0-9_]*)?"  # of a run: profile, or profile-root


def pack(name: str, archive: Path) -> None:
    """Writes runs/``name`` to ``archive``: complete, or not there. In the run's folder nothing is written."""
    run = ROOT / "runs" / name
    if not re.fullmatch(NAME, name) or not run.is_dir():
        found = sorted(path.name for path in (ROOT / "runs").glob("*") if path.is_dir())
        sys.exit(f"runs/{name}: no such run; there is {', '.join(found) or 'none'}")
    held = hold(run, reading=True)  # a run in progress would change under our hands
    with refusals(archive, NOTHING):
        members = {path.relative_to(ROOT).as_posix(): path for path in _files(run) if path.name != ".lock"}
        if not members:
            sys.exit(f"runs/{name}: no file in it yet; {NOTHING}")
        members |= {f"records/{path.name}": path for path in sorted(RECORDS.glob("*")) if _about(path.name, name)}
        if links := [at for at, path in members.items() if path.is_symlink()]:
            sys.exit(f"{links[0]}: expected a file, found a link; {NOTHING}")
        sums = {at: file_digest(path) for at, path in members.items()}
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".pack") as folder:
            (Path(folder) / LIST).write_text(json.dumps({"run": name, "files": sums}, indent=1), encoding="utf-8")
            with tarfile.open(Path(folder) / "archive", "w") as tar:
                tar.add(Path(folder) / LIST, LIST)
                for at, path in members.items():
                    tar.add(path, at)
            if held is None and (run / ".lock").exists():
                sys.exit(f"runs/{name}: a command has begun to write there meanwhile; {NOTHING}")
            os.replace(Path(folder) / "archive", archive)
        print(f"{archive}: runs/{name}, {len(members)} files, {archive.stat().st_size / 1e6:.1f} MB")


def _files(folder: Path) -> list[Path]:
    """Every file below ``folder`` and every link, sorted.

    Raises:
        OSError: a folder that cannot be read, which Path.rglob would leave out.
    """

    def refuse(error: OSError) -> None:
        raise error

    walked = [(Path(base), folders + files) for base, folders, files in os.walk(folder, onerror=refuse)]
    found = [base / name for base, names in walked for name in names]
    return sorted(path for path in found if path.is_symlink() or path.is_file())


def unpack(archive: Path) -> None:
    """Puts the run in ``archive`` below runs/, its files as old as they were.

    The archive is read to its end, and every checksum seen to be right, before anything is written.
    """
    with refusals(archive, UNCHANGED), contextlib.ExitStack() as stack:
        try:
            tar = stack.enter_context(tarfile.open(archive))
            name, sums, members = _contents(tar)
            if (ROOT / "runs" / name).exists():
                sys.exit(f"runs/{name}: there already; `make clean PROFILE={name}` removes it, {UNCHANGED}")
            for at, checksum in sums.items():
                if hashlib.file_digest(tar.extractfile(members[at]), "sha256").hexdigest() != checksum:
                    raise ValueError(f"{at}: its checksum is another")
        except Exception as error:  # of bytes that anyone may have written
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of this machine: the archive cannot be read
            why = str(error).partition("\n")[0] if isinstance(error, ValueError) else f"{LIST} is not as it writes it"
            why = "no tar file" if isinstance(error, tarfile.TarError) else why
            sys.exit(f"{archive}: not an archive of make pack, or damaged: {why}")
        with refusals(ROOT / "runs", UNCHANGED):
            _put(tar, name, [members[at] for at in sums])
    print(
        f"runs/{name}: {len(sums)} files from {archive}; `make study PROFILE={name.partition('-')[0]}"
        f"{' ROOT=' + name.partition('-')[2] if '-' in name else ''}` goes on"
    )


def _contents(tar: tarfile.TarFile) -> tuple[str, dict[str, str], dict[str, tarfile.TarInfo]]:
    """Name of the run, checksums of its files and records, and the archive's members, each where it may be.

    Raises:
        ValueError, or what else damaged bytes may bring about: it is not as :func:`pack` writes it.
    """
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar.getmembers():  # Python before 3.11.4 has no filter that refuses what would land elsewhere
        path = PurePosixPath(member.name)
        plain = member.isfile() and not member.issparse() and str(path) == member.name and "\0" not in member.name
        if not plain or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{member.name}: expected files inside the archive's own folder")
        if member.name in members:
            raise ValueError(f"{member.name}: it is there twice")
        members[member.name] = member
    if LIST not in members or members[LIST].size > LONGEST:
        raise ValueError(f"{LIST}: {'too long' if LIST in members else 'missing'}")
    about = json.loads(tar.extractfile(members.pop(LIST)).read())
    name, sums = about["run"], about["files"]
    if not re.fullmatch(NAME, name):
        raise ValueError(f"run {name!r}: expected the name of a run")
    for at in sorted(set(members) ^ set(sums)):
        raise ValueError(f"{at}: {'listed and missing' if at in sums else 'there and not listed'}")
    for at in sums:
        folder, _, record = at.partition("/")
        if not at.startswith(f"runs/{name}/") and (folder != "records" or "/" in record or not _about(record, name)):
            raise ValueError(f"{at}: it has no place in this run")
        if inside := [str(path) for path in PurePosixPath(at).parents if str(path) in sums]:
            raise ValueError(f"{at}: {inside[0]} is a file, too")
    if not any(at.startswith("runs/") for at in sums):
        raise ValueError(f"runs/{name}: no file of it")
    return name, sums, members


def _put(tar: tarfile.TarFile, name: str, members: list[tarfile.TarInfo]) -> None:
    """Writes ``members`` beside their place, on the same file system, and then into it: all of them or none."""
    runs, records = ROOT / "runs", []
    made = [folder for folder in (RECORDS, RECORDS.parent, runs) if not folder.exists()]
    try:
        runs.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=runs, prefix=".unpack", ignore_cleanup_errors=True) as folder:
            tar.extractall(folder, members, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
            RECORDS.mkdir(parents=True, exist_ok=True)
            for path in (Path(folder) / "records").glob("*"):
                records.append(RECORDS / path.name)
                shutil.move(path, records[-1])
            os.replace(Path(folder) / "runs" / name, runs / name)
    except BaseException:
        for path in records:
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
    elif not args.name:
        sys.exit("ARCHIVE: expected the file that make pack wrote")
    else:
        unpack(Path(args.name).absolute())


if __name__ == "__main__":
    main()
