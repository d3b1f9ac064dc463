"""A run as one archive, to go on with it on another machine.

    python engine/tools/pack.py pack PROFILE [ARCHIVE]
    python engine/tools/pack.py unpack ARCHIVE

The archive is a compressed tar file of the run's folder, with unfinished trainings. It also has what Snakemake has
recorded of those files: parameters, code, inputs. ``snakemake --touch`` would record anew, and so call current whatever
it finds. Unpacking reads all of it, checksum included, before it moves anything, and never overwrites a run.
"""

import base64
import gzip
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from engine.run.machine import hold, refusals
from engine.settings import parameters

RECORDS = ".snakemake/metadata"
DAMAGED = (tarfile.TarError, gzip.BadGzipFile, zlib.error, ValueError, LookupError, ArithmeticError, EOFError)
NOTHING, UNCHANGED = "nothing was written", "nothing was changed"


def pack(name: str, archive: Path) -> None:
    """Writes runs/``name`` to ``archive``: complete, or not there. In the run's folder nothing is written."""
    run = ROOT / "runs" / name
    if not re.fullmatch(parameters.RUN, name) or not run.is_dir():
        found = sorted(path.name for path in (ROOT / "runs").glob("*") if path.is_dir())
        sys.exit(f"runs/{name}: no such run; there is {', '.join(found) or 'none'}")
    if archive.exists() and not tarfile.is_tarfile(archive):
        sys.exit(f"{archive}: there already, and not an archive of make pack; {NOTHING}")
    held = hold(run, reading=True)  # a run in progress would change under our hands

    def kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if not member.isfile() and not member.isdir():
            sys.exit(f"{member.name}: expected a file, found a link; {NOTHING}")
        return None if member.name == f"runs/{name}/.lock" else member

    with refusals(archive, NOTHING):
        archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=archive.parent, prefix=".pack") as folder:
            whole = Path(folder) / "archive"
            with tarfile.open(whole, "w:gz", compresslevel=1) as tar:
                tar.add(run, f"runs/{name}", filter=kept)
                if not (count := sum(member.isfile() for member in tar.getmembers())):
                    sys.exit(f"runs/{name}: no file in it yet; {NOTHING}")
                for path in [path for path in (ROOT / RECORDS).glob("*") if _about(path.name, name)]:
                    tar.add(path, f"{RECORDS}/{path.name}")
            if held is None and (run / ".lock").exists():
                sys.exit(f"runs/{name}: a command has begun to write there meanwhile; {NOTHING}")
            os.replace(whole, archive)
    print(f"{archive}: runs/{name}, {count} files, {archive.stat().st_size / 1e6:.1f} MB")


def unpack(archive: Path) -> None:
    """Puts the run in ``archive`` below runs/, its files as old as they were: all of it, or nothing."""
    runs, moved = ROOT / "runs", []
    with refusals(runs, UNCHANGED):
        runs.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=runs, prefix=".unpack", ignore_cleanup_errors=True) as folder:
            try:
                name = _extract(archive, Path(folder))
            except DAMAGED as error:
                sys.exit(f"{archive}: not an archive of make pack, or damaged: {error}; {UNCHANGED}")
            if (runs / name).exists():
                sys.exit(f"runs/{name}: there already; `make clean PROFILE={name}` removes it, {UNCHANGED}")
            (ROOT / RECORDS).mkdir(parents=True, exist_ok=True)
            try:
                for path in (Path(folder) / RECORDS).glob("*"):  # first: files without a record are called current
                    moved.append(ROOT / RECORDS / path.name)
                    shutil.move(path, moved[-1])
                os.replace(Path(folder) / "runs" / name, runs / name)
            except OSError:
                for path in moved:
                    path.unlink(missing_ok=True)
                raise
    print(f"runs/{name}: unpacked from {archive}; `{parameters.command(name)}` goes on")


def _extract(archive: Path, folder: Path) -> str:
    """Puts ``archive`` into ``folder``; returns the name of its run. Raises :data:`DAMAGED` if not of :func:`pack`."""
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:  # Python has a filter for these since 3.11.4
            inside = not {"..", "/"} & set(Path(member.name).parts)
            if not inside or not (member.isfile() or member.isdir()):
                raise ValueError(f"{member.name}: it has no place in this run")
        tar.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        tar.fileobj.read()  # to its end, where the checksum is
    found = [path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()]
    name = min((path.parts[1] for path in found if path.parts[0] == "runs" and len(path.parts) > 2), default="")
    if not re.fullmatch(parameters.RUN, name):
        raise ValueError(f"run {name!r}: expected the name of a run")
    for path in found:
        record = path.parent == Path(RECORDS) and _about(path.name, name)
        if not (record or path.is_relative_to(f"runs/{name}")):
            raise ValueError(f"{path}: it has no place in this run")
    return name


def _about(record: str, name: str) -> bool:
    """Whether a record of Snakemake's, called by its file's path in base 64, is of this run."""
    try:
        return base64.b64decode(record, validate=True).startswith(f"runs/{name}/".encode())
    except ValueError:
        return False


if __name__ == "__main__":
    what, name, archive = [*sys.argv[1:], "", ""][:3]
    if what == "pack":
        pack(name, Path(archive or f"{name}.tar.gz").absolute())
    else:
        unpack(Path(name).absolute() if name else sys.exit("ARCHIVE: expected the file that make pack wrote"))
