import base64
import errno
import gzip
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from projects import copy_project, environment, read_only, tree_of

from engine.tools import pack


def packed(project, *arguments, prefix=()):
    """`engine/tools/pack.py` in ``project``: (whether it succeeded, what it said)."""
    command = [*prefix, sys.executable, "engine/tools/pack.py", *arguments]
    result = subprocess.run(
        command, cwd=project, env=environment(project), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert "Traceback" not in result.stdout, result.stdout
    return result.returncode == 0, result.stdout


def record(path: str) -> str:
    return base64.b64encode(path.encode()).decode()


@pytest.fixture
def here(tmp_path):
    """A project with two runs, one of them with an unfinished training, and Snakemake's records."""
    project = copy_project(tmp_path / "here")
    files = {
        "runs/cifar10/seed0/teacher/unfinished/teacher.safetensors": b"half" * 1000,
        "runs/cifar10/seed0/teacher/metrics.json": b"{}",
        "runs/cifar10/.lock": b"",
        "runs/cifar10-moo/sweep.csv": b"a,b",
        ".snakemake/metadata/" + record("runs/cifar10/seed0/teacher/metrics.json"): b'{"rule": "teacher"}',
        ".snakemake/metadata/" + record("runs/cifar10-moo/sweep.csv"): b"{}",
    }
    for name, content in files.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_bytes(content)
        os.utime(project / name, (1e9, 1e9 + 0.25))
    return project


@pytest.fixture
def there(tmp_path):
    return copy_project(tmp_path / "there")


def files_of(project):
    folders = (project / "runs", project / ".snakemake")
    return {p.relative_to(project).as_posix(): p.read_bytes() for f in folders for p in f.rglob("*") if p.is_file()}


def test_a_run_moves_with_its_unfinished_trainings_and_records(here, there, tmp_path):
    archive = tmp_path / "to" / "cifar10.tar"
    assert packed(here, "pack", "cifar10", str(archive))[0]
    good, said = packed(there, "unpack", str(archive))
    assert good and "make study PROFILE=cifar10`" in said
    expected = {name: content for name, content in files_of(here).items() if "moo" not in name and "lock" not in name}
    assert files_of(there) == {k: v for k, v in expected.items() if record("runs/cifar10-moo/sweep.csv") not in k}
    assert (there / "runs/cifar10/seed0/teacher/metrics.json").stat().st_mtime == 1e9 + 0.25
    assert [path.name for path in archive.parent.iterdir()] == ["cifar10.tar"]


def test_the_tree_of_a_variant_names_its_command(here, there, tmp_path):
    assert packed(here, "pack", "cifar10-moo", str(tmp_path / "a.tar"))[0]
    assert "`make study PROFILE=cifar10 VARIANT=moo`" in packed(there, "unpack", str(tmp_path / "a.tar"))[1]


def test_a_run_that_is_there_is_not_written_over(here, tmp_path):
    assert packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))[0]
    before = files_of(here)
    good, said = packed(here, "unpack", str(tmp_path / "a.tar"))
    assert not good and "make clean PROFILE=cifar10" in said
    assert files_of(here) == before


@pytest.mark.parametrize("name", ["cifar11", "../here/runs/cifar10", "", "."])
def test_an_unknown_run_is_named(here, tmp_path, name):
    good, said = packed(here, "pack", name, str(tmp_path / "a.tar"))
    assert not good and "no such run; there is cifar10, cifar10-moo" in said
    assert not (tmp_path / "a.tar").exists()


def test_a_run_in_progress_is_not_packed(here, tmp_path):
    import fcntl

    with open(here / "runs" / "cifar10" / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        good, said = packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))
    assert not good and "running there already" in said and not (tmp_path / "a.tar").exists()


def rewritten(source, target, change):
    """``target``: the archive ``source`` with the members {name: bytes} that ``change`` makes of its own."""
    with tarfile.open(source) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}
    with tarfile.open(target, mode="w:gz") as tar:
        for name, content in change({"runs/cifar10": None} | members).items():
            about = tarfile.TarInfo(name)
            about.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            about.size = len(content or b"")
            tar.addfile(about, io.BytesIO(content or b""))


HALF = "runs/cifar10/seed0/teacher/unfinished/teacher.safetensors"
HOSTILE = {
    "outside": (lambda m: m | {"../outside": b""}, "../outside: it has no place in this run"),
    "deep outside": (lambda m: m | {"runs/cifar10/../../../outside": b""}, "../outside: it has no place in this run"),
    "absolute": (lambda m: m | {"/tmp/outside": b""}, "it has no place in this run"),
    "code": (lambda m: m | {"studylib/evil.py": b""}, "studylib/evil.py: it has no place in this run"),
    "another run": (lambda m: m | {"runs/cifar10-x/a": b""}, "runs/cifar10-x/a: it has no place in this run"),
    "name": (lambda m: {k.replace("cifar10", "Cifar 10"): v for k, v in m.items()}, "expected the name of a run"),
    "empty": (lambda m: {}, "expected the name of a run"),
    "record of another": (
        lambda m: m | {".snakemake/metadata/" + record("runs/cifar10-moo/sweep.csv"): b""},
        "it has no place in this run",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_changes_nothing(here, there, tmp_path, case):
    change, why = HOSTILE[case]
    assert packed(here, "pack", "cifar10", str(tmp_path / "good.tar"))[0]
    rewritten(tmp_path / "good.tar", tmp_path / "bad.tar", change)
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*") if path.is_file()}
    good, said = packed(there, "unpack", str(tmp_path / "bad.tar"))
    assert not good and "bad.tar: not an archive of make pack, or damaged" in said and why in said
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*") if path.is_file()} == before
    assert not (there.parent / "outside").exists()


def test_an_archive_written_anew_of_the_same_files_is_unpacked(here, there, tmp_path):
    """What the hostile archives are made of is not what is refused in them."""
    assert packed(here, "pack", "cifar10", str(tmp_path / "good.tar"))[0]
    rewritten(tmp_path / "good.tar", tmp_path / "same.tar", dict)
    assert packed(there, "unpack", str(tmp_path / "same.tar"))[0]
    assert files_of(there).items() <= files_of(here).items() and HALF in files_of(there)


def test_a_changed_byte_is_found_by_the_checksum(here, there, tmp_path):
    assert packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))[0]
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[-8] ^= 1  # of the checksum itself
    (tmp_path / "a.tar").write_bytes(content)
    good, said = packed(there, "unpack", str(tmp_path / "a.tar"))
    assert not good and "a.tar: not an archive of make pack, or damaged: CRC check failed" in said
    assert not list((there / "runs").iterdir())


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, b"\x1f\x8b\x08" + bytes(40), b"BZh9" + bytes(40)])
def test_what_is_no_archive_is_said_to_be_none(there, tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    good, said = packed(there, "unpack", str(tmp_path / "x.tar"))
    assert not good and "x.tar: not an archive" in said


def test_a_cut_archive_is_refused(here, there, tmp_path):
    assert packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))[0]
    whole = (tmp_path / "a.tar").read_bytes()
    for share in (0.05, 0.2, 0.5):  # the rest of so small an archive is padding
        (tmp_path / "a.tar").write_bytes(whole[: int(share * len(whole))])
        good, _ = packed(there, "unpack", str(tmp_path / "a.tar"))
        assert not good and not list((there / "runs").iterdir())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "metrics.json"])
def test_an_archive_of_anything_but_files_is_refused(there, tmp_path, kind, target):
    with tarfile.open(tmp_path / "x.tar", mode="w:gz") as tar:
        for name, of_kind in (("runs/cifar10/metrics.json", tarfile.REGTYPE), ("runs/cifar10/link", kind)):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = of_kind, target
            tar.addfile(about)
    good, said = packed(there, "unpack", str(tmp_path / "x.tar"))
    assert not good and "link" in said and not list((there / "runs").iterdir())


@pytest.fixture
def other_disk():
    """A folder on another file system than the temporary one."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("there is no other file system here")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.mark.parametrize("moved", ["runs", ".snakemake", "both"])
def test_a_run_is_unpacked_where_its_folders_are_on_another_disk(here, there, tmp_path, other_disk, moved):
    assert packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))[0]
    good, said = packed(there, "unpack", str(tmp_path / "a.tar"))
    expected = files_of(there)
    for name in ("runs", ".snakemake"):
        pack.shutil.rmtree(there / name)
        if moved in (name, "both"):
            (other_disk / name).mkdir()
            (there / name).symlink_to(other_disk / name)
    good, said = packed(there, "unpack", str(tmp_path / "a.tar"))
    assert good, said
    found = {
        f"{name}/{at}": content for name in ("runs", ".snakemake") for at, content in tree_of(there / name).items()
    }
    assert {at: content for at, content in found.items() if content is not None} == expected
    assert (there / "runs/cifar10/seed0/teacher/metrics.json").stat().st_mtime == 1e9 + 0.25


@pytest.mark.parametrize("closed", ["runs", ".snakemake", "."])
def test_where_nothing_can_be_written_an_archive_is_not_called_damaged(here, there, tmp_path, closed):
    assert packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))[0]
    for name in ("runs", ".snakemake/metadata") if closed != "." else ():
        (there / name).mkdir(parents=True)
    before = tree_of(there)
    with read_only(there / closed) as prefix:
        good, said = packed(there, "unpack", str(tmp_path / "a.tar"), prefix=prefix)
    where = {"runs": "runs/.unpack", ".snakemake": ".snakemake/metadata/", ".": "runs"}[closed]
    assert not good and "damaged" not in said and len(said.splitlines()) == 1
    assert f"{there}/{where}" in said and said.endswith(": Permission denied; nothing was changed\n")
    assert tree_of(there) == before


def test_runs_that_is_a_file_is_said_to_be_one(here, there, tmp_path):
    assert packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))[0]
    (there / "runs").write_bytes(b"")
    good, said = packed(there, "unpack", str(tmp_path / "a.tar"))
    assert not good and f"{there}/runs" in said and "damaged" not in said


def test_an_archive_that_cannot_be_read_is_not_called_damaged(here, there, tmp_path):
    assert packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))[0]
    (tmp_path / "a.tar").chmod(0)
    with read_only() as prefix:
        good, said = packed(there, "unpack", str(tmp_path / "a.tar"), prefix=prefix)
    assert not good and said == f"{tmp_path}/a.tar: Permission denied; nothing was changed\n"
    for path, why in ((tmp_path / "none.tar", "No such file or directory"), (tmp_path, "Is a directory")):
        good, said = packed(there, "unpack", str(path))
        assert not good and said == f"{path}: {why}; nothing was changed\n"


@pytest.fixture
def inside(there, monkeypatch):
    """``there`` as the project of this process."""
    monkeypatch.setattr(pack, "ROOT", there)
    return there


def ended_by(call, *arguments) -> str:
    """What the command says as it exits; empty where it succeeds."""
    try:
        call(*arguments)
    except SystemExit as stopped:
        return str(stopped.code)
    return ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EXDEV, errno.EIO])
@pytest.mark.parametrize("step", ["extractall", "move", "mkdir", "replace"])
def test_a_disk_that_fails_at_any_step_leaves_nothing_half_in_place(here, inside, tmp_path, monkeypatch, step, number):
    assert packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))[0]
    before = tree_of(inside)
    owner = {"extractall": tarfile.TarFile, "move": pack.shutil, "mkdir": pack.tempfile, "replace": os}[step]
    name = {"mkdir": "TemporaryDirectory"}.get(step, step)

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        said = ended_by(pack.unpack, tmp_path / "a.tar")
    assert said == f"{inside}/runs: {os.strerror(number)}; nothing was changed"
    assert {at: content for at, content in tree_of(inside).items() if content is not None} == {
        at: content for at, content in before.items() if content is not None
    }
    assert ended_by(pack.unpack, tmp_path / "a.tar") == "" and (inside / "runs/cifar10").is_dir()


@pytest.fixture(scope="module")
def small_archives(tmp_path_factory):
    """The bytes of a run's archive, and of what is compressed in it."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "runs/cifar10/seed0").mkdir(parents=True)
    (folder / "runs/cifar10/seed0/metrics.json").write_bytes(b"{}")
    (folder / ".snakemake/metadata").mkdir(parents=True)
    (folder / ".snakemake/metadata" / record("runs/cifar10/seed0/metrics.json")).write_bytes(b"rule")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "ROOT", folder)
        pack.pack("cifar10", folder / "a.tar")
    content = (folder / "a.tar").read_bytes()
    return content, gzip.decompress(content)


@given(
    inside=st.booleans(),
    places=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.floats(0, 1),
)
def test_whatever_is_done_to_an_archive_it_is_a_sentence_or_the_whole_run(small_archives, inside, places, cut):
    damaged = bytearray(small_archives[inside])
    size = 6000 if inside else len(damaged)  # the rest is padding
    for at, value in places:
        damaged[int(at * size)] = value
    if cut < 0.3:
        del damaged[int(len(damaged) * cut / 0.3) :]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "ROOT", Path(folder) / "p")
        (Path(folder) / "p").mkdir()
        (Path(folder) / "x.tar").write_bytes(gzip.compress(damaged) if inside else damaged)
        said = ended_by(pack.unpack, Path(folder) / "x.tar")
        found = {at: content for at, content in tree_of(Path(folder) / "p").items() if content is not None}
    if said:
        assert ("x.tar: not an archive of make pack, or damaged: " in said or inside) and not found
    elif not inside:  # what was changed before it was compressed, no checksum can know
        assert sorted(found.values()) == [b"rule", b"{}"]


def test_packing_writes_nothing_into_the_run(here, tmp_path):
    (here / "runs/cifar10/.lock").unlink()
    before = tree_of(here)
    with read_only(here) as prefix:
        good, said = packed(here, "pack", "cifar10", str(tmp_path / "a.tar"), prefix=prefix)
    assert good, said
    good, said = packed(here, "pack", "cifar10", str(tmp_path / "b.tar"))
    assert good and tree_of(here) == before
    assert (tmp_path / "a.tar").exists()


def test_a_run_that_began_while_it_was_packed_is_not_packed(here, tmp_path, monkeypatch):
    (here / "runs/cifar10/.lock").unlink()
    monkeypatch.setattr(pack, "ROOT", here)
    real = pack.tarfile.open
    monkeypatch.setattr(pack.tarfile, "open", lambda *a, **o: (here / "runs/cifar10/.lock").touch() or real(*a, **o))
    assert "has begun to write there meanwhile" in ended_by(pack.pack, "cifar10", tmp_path / "to" / "a.tar")
    assert not list((tmp_path / "to").iterdir())


def test_what_cannot_be_packed_is_said_in_a_sentence(here, tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "file").touch()
    with read_only(tmp_path / "closed") as prefix:
        for target, why in (("closed/a.tar", "Permission denied"), ("file/a.tar", "File exists")):
            good, said = packed(here, "pack", "cifar10", str(tmp_path / target), prefix=prefix)
            assert (
                not good and str((tmp_path / target).parent) in said and said.endswith(f"{why}; nothing was written\n")
            )
        (here / "runs/cifar10/seed0/teacher/unfinished").chmod(0)
        good, said = packed(here, "pack", "cifar10", str(tmp_path / "a.tar"), prefix=prefix)
        (here / "runs/cifar10/seed0/teacher/unfinished").chmod(0o755)
    assert not good and "teacher/unfinished: Permission denied; nothing was written" in said
    (here / "runs/empty").mkdir()
    assert "no file in it yet" in packed(here, "pack", "empty", str(tmp_path / "a.tar"))[1]
    (here / "runs/cifar10/seed1").symlink_to(here / "runs/cifar10/seed0")
    assert "seed1: expected a file, found a link" in packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))[1]
    assert not (tmp_path / "a.tar").exists() and not list((tmp_path / "closed").iterdir())
