import re
import sys

import pytest
import torch
from benchmarks import nncodec

from studylib.coding import codec, shipped
from studylib.disk import files, models
from studylib.networks import layers

WORKER = f"""#!{sys.executable}
import sys
import numpy as np

if sys.argv[2] == "-c":
    sys.exit(0)
isolated, worker, source, target = sys.argv[1:]
assert isolated == "-I" and worker.endswith("nncodec_worker.py")
with open(__file__ + ".calls", "a") as calls:
    calls.write("called\\n")
with np.load(source, allow_pickle=False) as file:
    out = dict(file)
assert all(tensor.dtype == np.int8 for tensor in out.values())
out |= {{f"{{m}}/bitstream": np.zeros(100 + m, np.uint8) for m in {{int(name.split("/")[0]) for name in out}}}}
out["version"] = np.array("1.2.3")
%s
"""
ANSWERS = 'np.savez(target, **{name: t.astype(np.float64) if "/0" in name else t for name, t in out.items()})'


@pytest.fixture
def fake(tmp_path):
    """Makes an executable that stands for nncodec's Python and ends as the line of code given says."""

    def make(end):
        path = tmp_path / "python"
        path.write_text(WORKER % end)
        path.chmod(0o755)
        return path

    return make


def calls(python):
    log = python.with_name("python.calls")
    return len(log.read_text().splitlines()) if log.exists() else 0


def bytes_beside_weights(model):
    state = shipped.apply(model).state_dict()
    return sum(t.numel() * t.element_size() for name, t in state.items() if not name.endswith(".weight"))


def test_the_bitstream_counts_with_every_other_tensor_as_stored(fake, int8_model):
    python = fake(ANSWERS)
    sizes = nncodec.coded_bytes({"a": int8_model, "b": int8_model}, python)
    beside = bytes_beside_weights(int8_model)
    assert beside > 0 and sizes == {"a": 100 + beside, "b": 101 + beside}
    assert calls(python) == 1


def test_models_with_float_weights_are_left_out(fake, int8_model, student_model):
    mixed = layers.duplicate(int8_model)
    layers.replace_module(mixed, "fc2", torch.nn.Linear(*reversed(int8_model.fc2.weight.shape)))
    python = fake(ANSWERS)
    assert list(nncodec.coded_bytes({"float": student_model, "int8": int8_model, "mixed": mixed}, python)) == ["int8"]
    assert nncodec.coded_bytes({"float": student_model, "mixed": mixed}, python) == {}
    assert calls(python) == 1  # none where there is nothing to code


def test_a_worker_that_fails_is_quoted(fake, int8_model):
    python = fake('sys.exit("x" * 9000 + "no such option")')
    with pytest.raises(RuntimeError, match=r"nncodec failed \(1\)\nx+no such option") as caught:
        nncodec.coded_bytes({"a": int8_model}, python)
    assert len(str(caught.value)) < nncodec.TAIL + 500


@pytest.mark.parametrize("damage", ["out['1/2'].flat[0] ^= 1", "out['1/2'] = out['1/2'].ravel()"])
def test_integers_that_come_back_changed_are_an_error(fake, int8_model, damage):
    with pytest.raises(RuntimeError, match=r"^b: nncodec gave back other integers.*\.weight\)$"):
        nncodec.coded_bytes({"a": int8_model, "b": int8_model}, fake(f"{damage}; {ANSWERS}"))


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("pass", "no readable answer"),
        ("open(target, 'wb').write(b'no archive')", "no readable answer"),
        (f"del out['0/bitstream']; {ANSWERS}", "lacks '0/bitstream'"),
    ],
)
def test_an_answer_that_is_none_is_an_error(fake, int8_model, end, message):
    with pytest.raises(RuntimeError, match=message):
        nncodec.coded_bytes({"a": int8_model}, fake(end))


def test_an_environment_without_nncodec_is_known(tmp_path, fake, int8_model):
    assert not nncodec.available(tmp_path / "bin" / "python")
    assert not nncodec.available(sys.executable)
    assert nncodec.available(fake(ANSWERS))
    with pytest.raises(RuntimeError, match="No such file"):
        nncodec.coded_bytes({"a": int8_model}, tmp_path / "bin" / "python")


def run_main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["nncodec.py", *map(str, arguments)])
    nncodec.main()


def test_a_run_leaves_its_bytes_and_prints_them_beside_ours(
    study_root, fake, int8_model, student_model, monkeypatch, capsys
):
    for node, model in {"teacher": student_model, "teacher-int8": int8_model}.items():
        for seed in (0, 1):
            models.save_model(study_root / "runs" / "digits" / f"seed{seed}" / node, model)
    run_main(monkeypatch, "digits", "--python", fake(ANSWERS))
    size, ours = 100 + bytes_beside_weights(int8_model), len(codec.encode(int8_model))
    result = files.read_json(study_root / "runs" / "digits" / "nncodec.json")
    assert result["bytes_nncodec"] == {f"seed{seed}": {"teacher-int8": size} for seed in (0, 1)}
    assert result["version"] == "1.2.3" and "git_commit" in result["provenance"]
    printed = capsys.readouterr().out
    assert re.search(rf"seed1 +teacher-int8 +{size} +{ours} +{ours / size:.3f}$", printed, flags=re.M)


def test_what_is_missing_is_said(study_root, fake, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="make nncodec PROFILE=digits"):
        run_main(monkeypatch, "digits", "--python", tmp_path / "none")
    with pytest.raises(SystemExit, match="make study PROFILE=digits"):
        run_main(monkeypatch, "digits", "--python", fake(ANSWERS))


@pytest.mark.skipif(not nncodec.PYTHON.exists(), reason="needs .venv-nncodec (make nncodec)")
def test_nncodec_gives_back_every_integer(int8_model):
    pruned = layers.duplicate(int8_model)
    with torch.no_grad():
        for layer in layers.weight_layers(pruned).values():
            layer.weight[layer.weight.abs() < 40] = 0
        pruned.fc1.weight[1:] = 0  # leaves a matrix of one row
    sizes = nncodec.coded_bytes({"dense": int8_model, "pruned": pruned})
    whole = sum(t.numel() * t.element_size() for t in int8_model.state_dict().values())
    assert bytes_beside_weights(pruned) < sizes["pruned"] < sizes["dense"] < 1.1 * whole
