"""What a generative file draws: the same for the same seed, a clear error for what draws nothing, no half a file."""

import io
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from projects import ROOT, environment

from studylib.coding import codec, shipped
from studylib.data import text
from studylib.experiments import sample, vae
from studylib.networks import spec


def coded(path, name, scaling=None, **args):
    model = spec.create(name, 0, **args).eval()
    model.spec = model.spec | ({"input": scaling} if scaling else {})
    path.write_bytes(codec.encode(shipped.apply(spec.with_change(model, "teacher", {"epochs": 0}))))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return coded(tmp_path_factory.mktemp("files") / "small.slnc", "vae", image_size=8, width=2, latent=2)


LETTERS = " Tehx"


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    folder, of = tmp_path_factory.mktemp("files"), {"context": 8, "width": 8, "depth": 1}
    return coded(folder / "writer.slnc", "gpt", {"alphabet": LETTERS}, characters=len(LETTERS), **of)


@pytest.fixture
def said(monkeypatch, capsys):
    """What the command prints, and what it exits with."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["sample", *map(str, arguments)])
        try:
            sample.main()
            code = None
        except SystemExit as stopped:
            code = stopped.code
        return capsys.readouterr().out, code

    return run


def test_a_picture_holds_what_the_network_decodes_from_noise(file, tmp_path, said):
    out, code = said(file, "--seed", 3, "--out", tmp_path / "x.png")
    assert code is None and out == f"{tmp_path / 'x.png'}: a picture by small.slnc, seed 3\n"
    model = codec.decode(file.read_bytes())
    images = vae.sampled(model, 64, 3).view(8, 8, 8, 8)
    picture = (255 * imread(tmp_path / "x.png")[..., 0]).round().astype(np.uint8)
    scale = len(picture) // 80
    assert picture.shape == (80 * scale, 80 * scale) and len(picture) >= sample.LEAST
    shown = torch.from_numpy(picture[::scale, ::scale].copy()).unflatten(0, (8, 10)).unflatten(2, (8, 10))
    shown = shown.permute(0, 2, 1, 3)
    assert torch.equal(shown[..., 1:-1, 1:-1], images) and (shown[..., 0] == sample.GREY).all()


def test_the_same_seed_draws_the_same_and_another_other_images(file, tmp_path, said):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert said(file, "--seed", seed, "--out", tmp_path / f"{name}.png")[1] is None
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_text_is_printed_and_written_as_the_network_draws_it(writer, tmp_path, said):
    out, code = said(writer, "--seed", 3, "--out", tmp_path / "x.txt")
    expected = sample.PROMPT + text.sampled(codec.decode(writer.read_bytes()), sample.PROMPT, sample.COUNT, 3)
    assert code is None and out == f"{expected}\n{tmp_path / 'x.txt'}: a text by writer.slnc, seed 3\n"
    assert (tmp_path / "x.txt").read_text() == expected and len(expected) == 404
    assert said(writer, "--seed", 3, "--out", tmp_path / "again.txt")[1] is None
    assert said(writer, "--seed", 4, "--out", tmp_path / "other.txt")[1] is None
    again, other = ((tmp_path / f"{name}.txt").read_text() for name in ("again", "other"))
    assert again == expected != other


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        (None, "alphabet 'None': expected the 5 characters that it learnt"),
        ({"alphabet": "abc"}, "alphabet 'abc': expected the 5 characters"),
        ({"mean": [0.5], "std": [1.0]}, "alphabet 'None': expected the 5"),
        ({"alphabet": "abcde"}, "prompt='The ': 'T': expected characters of 'abcde'"),
    ],
)
def test_a_network_of_text_without_its_alphabet_is_refused(tmp_path, said, scaling, message):
    file = coded(tmp_path / "x.slnc", "gpt", scaling, characters=5, context=8, width=8, depth=1)
    out, code = said(file, "--out", tmp_path / "x.txt")
    assert message in code and not out and not (tmp_path / "x.txt").exists()


def test_a_picture_of_colours_is_one_of_colours():
    images = torch.randint(0, 256, (4, 3, 5, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    picture = (255 * imread(io.BytesIO(sample.png(images)))[..., :3]).round().astype(np.uint8)
    scale = len(picture) // 14
    assert np.array_equal(picture[::scale, ::scale][8:13, 1:6], images[2].permute(1, 2, 0).numpy())


def test_a_file_without_a_name_is_named_for_model_and_seed(file):
    path = sample.written_to("", file, 7, sample.SAMPLERS["vae"])
    assert path == ROOT / "runs" / "sample" / "small-seed7.png"


def test_another_kind_of_network_plugs_in_by_a_line(file, tmp_path, said, monkeypatch):
    def words(model, seed):
        return f"{model.spec['name']} {seed}".encode()

    monkeypatch.setitem(sample.SAMPLERS, "vae", sample.Sampler("words", ".txt", words, printed=True))
    out, code = said(file, "--seed", 5, "--out", tmp_path / "x.txt")
    assert code is None and out.splitlines()[0] == "vae 5" and (tmp_path / "x.txt").read_text() == "vae 5"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("nowhere.slnc",), "MODEL=nowhere.slnc: expected a coded file, such as those in figures/models/"),
        (("", "--seed", "0"), "MODEL=: expected a coded file"),
        (("{file}", "--seed", "-1"), "SEED=-1: expected a whole number of 0 to"),
        (("{file}", "--seed", "one"), "SEED=one: expected a whole number"),
        (("{file}", "--seed", str(2**64)), "expected a whole number of 0 to"),
        (("{file}", "--out", "x.jpg"), "OUT=x.jpg: expected a file whose name ends in .png, as it holds a picture"),
        (("{file}", "--out", "x" * 300 + ".png"), "xxx.png: File name too long: expected a file that can be written"),
        (("{file}", "--prompt", "To be"), "PROMPT=To be: expected none, as small.slnc draws a picture"),
        (("{writer}", "--prompt", "é"), "PROMPT=é: prompt='é': 'é': expected characters of "),
        (("README.md",), "MODEL=README.md: "),
        (("{classifier}",), ": a convnet draws nothing new: expected one of gpt, vae"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(file, writer, tmp_path, said, monkeypatch, given, message):
    monkeypatch.chdir(ROOT)
    classifier = coded(tmp_path / "classifier.slnc", "convnet", image_size=8, in_channels=1, widths=(2, 2, 2))
    out, code = said(*(each.format(file=file, writer=writer, classifier=classifier) for each in given))
    assert out == "" and message in code and "\n" not in code


def test_a_text_goes_on_from_the_prompt_that_is_asked_for_and_a_home_may_be_named(writer, tmp_path, said, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    out, code = said(writer, "--prompt", "The x", "--out", "~/x.txt")
    assert code is None and out.startswith("The x")
    assert (tmp_path / "x.txt").read_text() == "The x" + text.sampled(
        codec.decode(writer.read_bytes()), "The x", 400, 0
    )


def test_a_folder_that_cannot_be_written_is_refused(file, tmp_path, said):
    (tmp_path / "taken").write_text("")
    out = tmp_path / "taken" / "x.png"
    assert said(file, "--out", out) == ("", f"OUT={out}: File exists: expected a file that can be written")


KILLED = """
import os, signal, sys
from studylib.disk import files
from studylib.experiments import sample

def killed(*given, **named):
    print("at work", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

where = {"drawing": (sample.likelihood, "sampled"), "written": (os, "fsync"), "in place": (os, "replace")}
setattr(*where[sys.argv.pop(1)], killed)
sample.main()
"""


@pytest.mark.long
@pytest.mark.parametrize("before", [None, b"an earlier picture"])
@pytest.mark.parametrize("moment", ["drawing", "written", "in place"])
def test_a_drawing_that_is_killed_leaves_what_was_there(file, tmp_path, moment, before):
    out, how = tmp_path / "x.png", {"cwd": ROOT, "env": environment(ROOT), "stdout": subprocess.PIPE}
    if before:
        out.write_bytes(before)
    done = subprocess.run([sys.executable, "-c", KILLED, moment, str(file), "--out", str(out)], **how)
    assert done.returncode == -signal.SIGKILL and done.stdout == b"at work\n"
    assert (out.read_bytes() if out.exists() else None) == before
    subprocess.run(
        [sys.executable, "-m", "studylib.experiments.sample", str(file), "--out", str(out)], check=True, **how
    )
    assert imread(out).shape[0] >= sample.LEAST
