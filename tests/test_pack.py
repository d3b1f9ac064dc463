import base64
import io
import json
import os
import subprocess
import sys
import tarfile

import pytest
from projects import copy_project, environment


def packed(project, *arguments):
    """`engine/pack.py` in ``project``: (whether it succeeded, what it said)."""
    command = [sys.executable, "engine/pack.py", *arguments]
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


def test_the_tree_of_a_root_names_its_command(here, there, tmp_path):
    assert packed(here, "pack", "cifar10-moo", str(tmp_path / "a.tar"))[0]
    assert "`make study PROFILE=cifar10 ROOT=moo`" in packed(there, "unpack", str(tmp_path / "a.tar"))[1]


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
    assert not good and "being run already" in said and not (tmp_path / "a.tar").exists()


def rewritten(source, target, change):
    """``target``: the archive ``source`` with the members {name: bytes} that ``change`` makes of its own."""
    with tarfile.open(source) as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar.getmembers()}
    with tarfile.open(target, "w") as tar:
        for name, content in change(members).items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def listed(members, **changes):
    return members | {"checksums.json": json.dumps(json.loads(members["checksums.json"]) | changes).encode()}


HALF = "runs/cifar10/seed0/teacher/unfinished/teacher.safetensors"
HOSTILE = {
    "changed": lambda m: m | {HALF: b"flah" * 1000},
    "missing": lambda m: {k: v for k, v in m.items() if k != HALF},
    "more": lambda m: m | {"runs/cifar10/more": b""},
    "outside": lambda m: m | {"../outside": b""},
    "code": lambda m: listed(
        m | {"studylib/evil.py": b""}, files={"studylib/evil.py": "e3b0c44298fc1c149afbf4c8996fb924"}
    ),
    "no list": lambda m: {k: v for k, v in m.items() if k != "checksums.json"},
    "list": lambda m: m | {"checksums.json": b"[1, 2]"},
    "name": lambda m: listed(m, run="../studylib"),
    "name type": lambda m: listed(m, run=3),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_or_hostile_archive_changes_nothing(here, there, tmp_path, case):
    assert packed(here, "pack", "cifar10", str(tmp_path / "good.tar"))[0]
    rewritten(tmp_path / "good.tar", tmp_path / "bad.tar", HOSTILE[case])
    before = {path: path.stat().st_mtime_ns for path in there.rglob("*") if path.is_file()}
    good, said = packed(there, "unpack", str(tmp_path / "bad.tar"))
    assert not good and "not an archive of make pack, or damaged" in said
    assert {path: path.stat().st_mtime_ns for path in there.rglob("*") if path.is_file()} == before
    assert not (there.parent / "outside").exists()


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, None])
def test_what_is_no_archive_is_said_to_be_none(there, tmp_path, content):
    if content is not None:
        (tmp_path / "x.tar").write_bytes(content)
    good, said = packed(there, "unpack", str(tmp_path / "x.tar"))
    assert not good and "x.tar: not an archive" in said


def test_a_cut_archive_is_refused(here, there, tmp_path):
    assert packed(here, "pack", "cifar10", str(tmp_path / "a.tar"))[0]
    whole = (tmp_path / "a.tar").read_bytes()
    for share in (0.05, 0.2, 0.5):  # the rest of so small an archive is padding
        (tmp_path / "a.tar").write_bytes(whole[: int(share * len(whole))])
        good, _ = packed(there, "unpack", str(tmp_path / "a.tar"))
        assert not good and not (there / "runs").exists() and not list(there.glob(".unpack*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_an_archive_of_anything_but_files_is_refused(there, tmp_path, kind):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        about = tarfile.TarInfo("runs/cifar10/link")
        about.type, about.linkname = kind, "/etc/passwd"
        tar.addfile(about)
    good, said = packed(there, "unpack", str(tmp_path / "x.tar"))
    assert not good and "runs/cifar10/link: expected files" in said and not (there / "runs").exists()
