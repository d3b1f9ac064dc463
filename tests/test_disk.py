import errno
import json
import os
import subprocess

import pytest
import safetensors.torch
import torch

from studylib.disk import files, models, provenance
from studylib.disk.files import CheckpointError
from studylib.disk.models import load_model, save_model


@pytest.fixture
def folder(student_model, tmp_path):
    save_model(tmp_path / "model", student_model)
    return tmp_path / "model"


def seal(folder, **changes):
    """Alters model.json and makes its checksum right again."""
    content = json.loads((folder / "model.json").read_text())
    content.pop("check")
    content |= changes
    (folder / "model.json").write_text(json.dumps({**content, "check": models._digest(content)}))


# --- models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["student_model", "teacher_model", "int8_model"])
def test_a_model_is_the_same_after_storing(name, request, digits, tmp_path, same_tensors):
    model = request.getfixturevalue(name)
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    assert same_tensors(loaded, model) and loaded.spec == model.spec
    assert not loaded.training
    images = digits.normalize(digits.validation.images)
    with torch.no_grad():
        assert torch.equal(loaded(images), model.eval()(images))


def test_the_same_model_gives_the_same_bytes(student_model, folder, tmp_path):
    save_model(tmp_path / "again", student_model)
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_nothing_is_pickled(folder, student_model):
    assert sorted(file.name for file in folder.iterdir()) == ["model.json", "model.safetensors"]
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    assert tensors.keys() == student_model.state_dict().keys()
    assert json.loads((folder / "model.json").read_text())["spec"] == student_model.spec


def test_a_truncated_file_is_named(folder):
    for name in ("model.safetensors", "model.json"):
        file = folder / name
        content = file.read_bytes()
        for keep in (len(content) - 1, len(content) // 2, 0):
            file.write_bytes(content[:keep])
            with pytest.raises(CheckpointError, match=str(file)):
                load_model(folder)
        file.write_bytes(content)
    load_model(folder)


@pytest.mark.parametrize("at", [0, 9, 0.5, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_flipped_bit_is_noticed_and_the_file_named(folder, name, at):
    content = bytearray((folder / name).read_bytes())
    content[int(at * len(content)) if at == 0.5 else at] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=str(folder / name)):
        load_model(folder)


@pytest.mark.parametrize("what", [b"[]", b"3", b'"x"', b"{}", b"\xff", b'{"spec": {}, "sha256": "0", "check": "0"}'])
def test_another_json_is_noticed_and_named(folder, what):
    (folder / "model.json").write_bytes(what)
    with pytest.raises(CheckpointError, match=str(folder / "model.json")):
        load_model(folder)


def test_an_altered_spec_is_noticed_and_named(folder):
    file = folder / "model.json"
    text = file.read_text()
    assert '"convnet"' in text
    file.write_text(text.replace('"convnet"', '"densenet"'))
    with pytest.raises(CheckpointError, match=rf"{file}.*altered"):
        load_model(folder)


def test_a_spec_that_does_not_build_is_named(folder, student_model):
    seal(folder, spec={**student_model.spec, "name": "mobilenet"})
    with pytest.raises(CheckpointError, match=rf"{folder / 'model.json'}.*mobilenet"):
        load_model(folder)


@pytest.mark.parametrize(
    "args",
    [{"widths": [float("inf")] * 3}, {"widths": 3}, {"image_size": 1e300}, {"hidden": [0.5, 2]}, {"more": "\ud800"}],
)
def test_arguments_that_break_a_constructor_are_named(folder, student_model, args):
    seal(folder, spec={**student_model.spec, "args": {**student_model.spec["args"], **args}})
    with pytest.raises(CheckpointError, match=rf"{folder / 'model.json'}.*does not build"):
        load_model(folder)


def test_tensors_that_do_not_fit_the_spec_are_named(folder, student_model):
    args = {**student_model.spec["args"], "hidden": [5, 5]}
    seal(folder, spec={**student_model.spec, "args": args})
    with pytest.raises(CheckpointError, match=str(folder / "model.safetensors")):
        load_model(folder)


def test_tensors_of_another_model_are_noticed(folder, new_student, tmp_path):
    save_model(tmp_path / "other", new_student(9))
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=str(folder / "model.safetensors")):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{folder / name}: no such file"):
        load_model(folder)


def test_a_missing_model_of_a_run_says_which_command_makes_it(study_root):
    for folder, command in {
        "smoke/seed7/teacher": "PROFILE=smoke SEEDS=7",  # its profile may lack that seed
        "digits-two_objectives/seed0/teacher": "PROFILE=digits VARIANT=two_objectives SEEDS=0",
        "smoke": "PROFILE=smoke",
    }.items():
        with pytest.raises(CheckpointError, match=rf"make study {command}$") as caught:
            load_model(study_root / "runs" / folder)
        assert str(study_root / "runs" / folder) in str(caught.value)


def test_a_missing_model_elsewhere_names_its_folder_only(study_root):
    for folder in (study_root / "elsewhere", study_root / "runs"):
        with pytest.raises(CheckpointError, match=f"{folder}: no model here$"):
            load_model(folder)


# --- files ----------------------------------------------------------------------------------------------------


def test_writing_replaces_the_whole_file_and_makes_folders(tmp_path):
    file = tmp_path / "a" / "b" / "c.txt"
    for content in (b"a long first text", b"short"):
        files.write_bytes(file, content)
        assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


def test_written_files_have_the_mode_of_any_new_file(tmp_path):
    files.write_bytes(tmp_path / "stored", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "stored").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step):
    file = tmp_path / "x"
    files.write_bytes(file, b"old")

    def fail(*args):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(OSError, match="disk full"):
            files.write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("step", ["open", "fsync", "replace", "mkstemp"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_is_said_with_the_path_and_an_old_model_stays_whole(
    folder, new_student, monkeypatch, step, number
):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    owner, name = {"open": (os, "fdopen"), "mkstemp": (files.tempfile, "mkstemp")}.get(step, (os, step))
    works, calls = getattr(owner, name), []

    def fail(*arguments, **how):
        calls.append(1)
        if len(calls) == 2 or step == "replace":  # there is room for the tensors and none for the spec
            raise OSError(number, os.strerror(number))
        return works(*arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(OSError, match=f"{os.strerror(number)}: '{folder}/model"):
            save_model(folder, new_student(5))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    load_model(folder)


def test_a_folder_that_cannot_be_made_is_named(tmp_path, student_model):
    (tmp_path / "file").touch()
    for write in (lambda path: files.write_json(path, {}), lambda path: save_model(path, student_model)):
        with pytest.raises(OSError, match=f"{tmp_path}/file/x"):
            write(tmp_path / "file" / "x")
    with pytest.raises(OSError, match="/proc/nowhere/x"):
        files.write_bytes(files.Path("/proc/nowhere/x"), b"")


def test_what_this_machine_cannot_read_is_not_called_damaged(folder, tmp_path, monkeypatch):
    files.write_json(tmp_path / "x.json", {})
    real = open

    def fail(path, *arguments, **how):
        raise OSError(errno.EIO, "Input/output error", str(path))

    for module in ("builtins.open", "io.open"):
        monkeypatch.setattr(module, fail)
    for read, path in (
        (load_model, folder),
        (files.read_json, tmp_path / "x.json"),
        (files.read_tensors, folder / "model.safetensors"),
    ):
        with pytest.raises(OSError, match=f"Input/output error: '{path}"):
            read(path)
    monkeypatch.setattr("builtins.open", real)
    for read in (files.read_json, files.read_tensors):
        with pytest.raises(OSError, match=r"Is a directory|Input/output"):
            read(tmp_path)


def test_json_comes_back_and_holds_no_nan(tmp_path):
    value = {"α": [1, 2.5, None, "x"], "nested": {"y": True}}
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == value
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "x.json", {"y": float("nan")})
    assert files.read_json(tmp_path / "x.json") == value


def test_tensors_come_back_with_what_was_said_about_them(tmp_path):
    tensors = {"a": torch.randn(3, 4).t(), "b": torch.arange(3, dtype=torch.int8), "c": torch.tensor(2.0)}
    about = {"epoch": 3, "names": ["ä"]}
    for said in (about, None):
        files.write_tensors(tmp_path / "x", tensors, said)
        found, found_about = files.read_tensors(tmp_path / "x")
        assert found_about == (said or {})
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[k], tensors[k]) and found[k].dtype == tensors[k].dtype for k in tensors)


SAID = [safetensors.torch.save({"a": torch.zeros(1)}, {"about": about}) for about in ("[]", "3", "{", "[" * 100_000)]
BROKEN = {  # what reads a file → what it may hold instead of what was written
    files.read_json: (b"{", b"\xff\xfe", b"[" * 100_000),
    files.read_tensors: (b"", b"not tensors at all", *SAID),
}


@pytest.mark.parametrize(("read", "content"), [(read, each) for read in BROKEN for each in (None, *BROKEN[read])])
def test_a_file_that_cannot_be_read_is_named(tmp_path, read, content):
    file = tmp_path / "x"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(file)):
        read(file)


# --- the study's folder ---------------------------------------------------------------------------------------


def test_paths_are_resolved_below_the_root(study_root):
    assert files.root() == study_root
    assert files.resolve("runs/smoke") == study_root / "runs" / "smoke"
    assert files.resolve("/elsewhere/x") == files.Path("/elsewhere/x")


def test_the_root_is_the_nearest_folder_with_parameters(study_root, monkeypatch):
    monkeypatch.delenv("STUDY_ROOT")
    (study_root / "papermill_params").mkdir()
    (study_root / "notebooks" / "deep").mkdir(parents=True)
    monkeypatch.chdir(study_root / "notebooks" / "deep")
    files.root.cache_clear()
    assert files.root() == study_root.resolve()


def git(folder, *args):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", folder, *identity, *args], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_provenance_says_which_commit_and_whether_it_was_changed(study_root, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # of a hook that runs the tests
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(study_root.parent))
    assert provenance.provenance()["git_commit"] == "unknown"
    git(study_root, "init")
    (study_root / "file").write_text("1")
    git(study_root, "add", "file")
    git(study_root, "commit", "-m", "x")
    commit = git(study_root, "rev-parse", "HEAD")[:12]
    assert provenance.provenance()["git_commit"] == commit
    (study_root / "untracked").write_text("1")
    assert provenance.provenance()["git_commit"] == commit
    (study_root / "file").write_text("2")
    assert provenance.provenance()["git_commit"] == commit + "+"


def test_provenance_names_packages_and_hardware():
    found = provenance.provenance()
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["threads"] == torch.get_num_threads()
    assert found["date"].endswith("+00:00")
    assert f"{os.cpu_count()} cores" in found["hardware"] or torch.cuda.is_available()
    json.dumps(found, allow_nan=False)


def test_hardware_is_said_where_linux_does_not_say_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(files.Path, "read_text", lambda self, **_: "processor: 0\n")
    name, cores, _ = provenance._hardware().split(", ")
    assert name and cores == f"{os.cpu_count()} cores"


@pytest.mark.parametrize(("has", "said"), [(True, "with bfloat16"), (False, "without bfloat16")])
def test_hardware_says_whether_amp_is_bfloat16_on_this_processor(monkeypatch, has, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(provenance, "has_bfloat16", lambda device: has)
    assert provenance._hardware().endswith(f" cores, {said}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    assert provenance._hardware() == "H200"


def test_provenance_says_which_images_where_they_are_given():
    assert provenance.provenance("abc")["data_sha256"] == "abc" and "data_sha256" not in provenance.provenance()
