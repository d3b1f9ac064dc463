"""What chapters 10 and 11 share: means over seeds, runs that are killed, and the files that are published."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from projects import ROOT, environment

from studylib.coding import codec, restore
from studylib.data import datasets, likelihood, text
from studylib.experiments import (
    generative_carried,
    generative_files,
    generative_told,
    gpt,
    gpt_told,
    sample,
    vae,
    vae_told,
)
from studylib.experiments.published import Figures
from studylib.settings import read
from studylib.training.recipe import Recipe

ROWS = pd.DataFrame(
    {"seed": [0, 1], "node": "x", "bytes": 10, "zeros": 0.5, "test_bits": 3.0, "val_bits": 3.0}
    | {"low": 2.0, "high": 4.0, "costs": [0.1, 0.3], "costs_low": [0.09, 0.29], "costs_high": [0.11, 0.31]}
)


def test_an_interval_is_over_seeds_where_there_are_several_and_else_over_images_or_blocks():
    (one,), (two,) = (generative_told.summary(part).to_dict("records") for part in (ROWS[:1], ROWS))
    assert (one["costs_low"], one["verdict"]) == (0.09, "raises")
    assert two["costs_low"] < 0 < two["costs_high"] and two["verdict"] == "cannot tell"
    assert two["costs"] == pytest.approx(0.2) and two["bytes"] == 10


def test_a_network_of_as_many_bytes_is_taken_along_the_better_form():
    """A float32 file hardly better than a smaller one of int8 does not hide that larger int8 files are better still."""
    dense = pd.DataFrame({"form": ["int8", "int8", "float32", "float32"], "bytes": [100, 10_000, 200, 20_000]})
    dense["test_bits"] = [4.0, 2.0, 3.99, 2.5]
    nodes = pd.DataFrame({"seed": 0, "node": list("abcde"), "bytes": [100, 1000, 10_000, 20_000, 50], "test_bits": 0.0})
    found = generative_told.against_narrower(nodes, dense.assign(seed=0))["less"]
    assert list(found[:4]) == pytest.approx([4, 3, 2, 2]) and np.isnan(found[4])


def test_what_is_not_published_of_classifiers_is_empty_and_another_study_fills_what_one_lacks():
    assert generative_carried.classifiers() == generative_carried.classifiers("nowhere", "digits") == {}
    alone, filled = generative_carried.classifiers("mnist"), generative_carried.classifiers("mnist", "digits")
    assert {key: filled[key] for key in alone} == alone and len(alone) < len(filled) == 6
    assert {filled[key][0] for key in alone} == {"mnist"}
    assert {filled[key][0] for key in filled.keys() - alone.keys()} == {"digits"}


def test_pruning_and_int8_of_the_digits_classifiers_are_beaten_as_chapter_7_says():
    margins = json.loads((ROOT / "figures" / "digits" / "07_sweep.json").read_text())["rows"]["margins"]
    there = next(row for row in margins if row["node"] == generative_told.BOTH)
    _, value, low, high = generative_carried.classifiers("digits")[generative_carried.NARROW]
    assert value == there["margin"] and low < value < high
    word = {"yes": "beats it", "no": "is beaten"}.get(generative_carried.NARROW.held(low, high), "cannot tell")
    assert word == there["verdict"]


@pytest.mark.parametrize(
    ("interval", "bound", "above", "held"),
    [
        ((0.4, 0.6), 1, False, "yes"),
        ((1.4, 1.6), 1, False, "no"),
        ((0.4, 1.6), 1, False, "cannot tell"),
        ((0.4, 0.6), 0, True, "yes"),
        ((-0.6, -0.4), 0, True, "no"),
        ((np.nan, np.nan), 0, True, "cannot tell"),
    ],
)
def test_a_finding_holds_where_the_whole_interval_says_so(interval, bound, above, held):
    assert generative_carried.Finding("x", "there", "here", bound, above).held(*interval) == held


def of_two_seeds(**saved):
    """Rows of two seeds: bytes of each node by ``saved`` (percent of the teacher's), and what it costs in bits."""
    percent = {"teacher": 0, "teacher-kd": 50, "teacher-imp": 70, "teacher-svd": 0, "teacher-int8": 60}
    percent |= {"teacher-imp-int8": 90} | {f"teacher-{name}": value for name, value in saved.items()}
    return pd.DataFrame(
        {"seed": seed, "node": node, "bytes": 100 - each - seed / 100, "test_bits": 2.0, "val_bits": 2.0}
        | {"costs": 0.001 * seed, "costs_low": 0.0, "costs_high": 0.0}
        for node, each in percent.items()
        for seed in (0, 1)
    )


def test_what_carries_over_holds_of_classifiers_and_here(monkeypatch):
    known = dict.fromkeys(generative_carried.FINDINGS, ("digits", 0.5, 0.4, 0.6)) | {
        generative_carried.NARROW: ("digits", -0.5, -0.6, -0.4),
        generative_carried.CUT: ("digits", 0.5, 0.4, 0.6),
        generative_carried.COMMON: ("digits", -0.5, -1.6, 0.4),
    }
    monkeypatch.setattr(generative_carried, "classifiers", lambda *studies: known)
    rows = of_two_seeds(svd=5)
    less = {"less": [0.1, -0.2], "low": [0.05, -0.3], "high": [0.15, -0.1]}
    beside = pd.DataFrame({"node": [generative_told.BOTH, generative_told.SVD]} | less)
    pcd = pd.DataFrame({"saved": [-0.1], "low": [-0.2], "high": [-0.05]})
    found = generative_carried.carried(rows, generative_told.summary(rows), beside, pcd, ["mnist"])
    assert list(found["verdict"]) == [
        "carries over",
        "set, not found",
        "set, not found",
        "carries over",
        "holds here alone",
        "cannot tell",
    ]
    assert found["classifiers"][0] == "yes: +0.50 (+0.40 to +0.60) points of accuracy lost, digits"
    assert found["value"][3:].tolist() == pytest.approx([10.0, 5.0, -5.0])
    assert found[["low", "high"]].loc[3].tolist() == pytest.approx([5.0, 15.0])  # of SVD the narrower network's gain
    less = beside.assign(high=-1, low=-2)
    worse = generative_carried.carried(rows, generative_told.summary(rows), less, pcd, ["digits"])
    assert worse["verdict"][4] == "holds in neither" and worse["classifiers"][4].endswith(" points of accuracy")
    told = generative_carried.carried_told(found)
    assert told.startswith("Carries over: int8 is nearly free; a narrower network beats SVD at Δ = 1. Holds here ")
    seen = [f"{row.finding}: {row.here}" for row in found.itertuples() if row.verdict == generative_carried.SET]
    assert f"Set, not found: {'; '.join(seen)}." in told and seen[0].startswith("pruning saves most of the file: ")
    assert list(generative_carried.carried_listed(found)["holds if it is"])[:4] == ["at most 1", "–", "–", "above 0"]


def test_what_no_classifier_has_published_cannot_be_told():
    rows = of_two_seeds()
    less = {"less": 0.1, "low": 0.05, "high": 0.15}
    beside = pd.DataFrame({"node": [generative_told.BOTH, generative_told.SVD]} | less)
    found = generative_carried.carried(rows, generative_told.summary(rows), beside, beside[:0].assign(saved=0.0), [])
    assert set(found["classifiers"]) == {"–"} and set(found["verdict"]) == {"cannot tell", "set, not found"}
    assert found["here"].iloc[-1] == "cannot tell: – % of bits saved"


def test_whether_training_recovered_and_whether_a_teacher_helped_is_told():
    nodes = pd.DataFrame({"node": ["teacher", "teacher-imp"], "val_bits": [2.0, 2.05]})
    told = [generative_told.recovered_told(nodes, tolerance, rounds=3, fraction=0.2) for tolerance in (0.06, 0.04)]
    assert told[0].startswith("The network recovered from pruning: 0.0500 validation bits are lost, 0.06 were allowed.")
    assert "did not recover" in told[1] and told[1].endswith("3 rounds take 49% of the weights at most, as set.")
    rows = pd.DataFrame({"node": "teacher-kd", "seed": [0, 1, 2], "test_bits": [2.0, 2.1, 2.2]})
    alone = pd.DataFrame({"width": 8, "form": "float32", "seed": [0, 1, 2], "test_bits": [2.11, 2.2, 2.29]})
    said = generative_told.distilled_told(rows, alone, 8)
    assert said.startswith("Beside a student trained alone, a distilled one needs 0.1000 fewer bits (-0.12")
    unlike = alone.assign(test_bits=[1.0, 2.0, 4.0])
    assert generative_told.distilled_told(rows, unlike, 8).endswith("; these seeds cannot tell.")
    assert generative_told.distilled_told(rows[:1], alone, 8).endswith("0.1100 fewer bits; one seed, no interval.")
    assert generative_told.distilled_told(rows, alone, 16) == ""
    longer = pd.DataFrame({"width": 4, "form": "float32, longer", "seed": [0, 1], "test_bits": [2.3, 2.4]})
    told = generative_told.longer_told(rows.assign(node="teacher")[:2], longer, 4)
    assert told.endswith("as it and its pruning took, the whole network needs 0.3000 more bits (+0.3000 to +0.3000).")
    told = generative_told.longer_told(rows.assign(node="teacher")[:2], longer.assign(test_bits=1.0), 4)
    assert told.endswith(" Beside that one pruned networks cost as much more.")
    assert generative_told.longer_told(rows, alone, 8) == ""


def test_marks_stand_beside_the_networks_with_their_intervals():
    marks = pd.DataFrame({"name": ["xz"], "bits": [3.25]})
    rows = pd.DataFrame({"node": ["teacher", "teacher-imp"] * 2, "test_bits": [1, 2, 3, 4], "low": 0.5, "high": 9.0})
    found = generative_told.marks_listed(marks, rows, "teacher-imp", "bits", 2)
    assert list(found["bits"]) == ["3.25", "2.00 (0.50 to 9.00)", "3.00 (0.50 to 9.00)"]
    assert list(found["by"]) == ["xz", "whole", "pruning"]


def test_the_page_of_smallest_files_has_every_published_study_as_its_chapter_says():
    found = {row["learns"].partition(",")[0]: row for row in generative_files.rows(Figures(ROOT / "figures"))}
    studies = [*ROOT.glob("figures/*/10_gpt.json"), *ROOT.glob("figures/*/11_vae.json")]
    assert len(found) == len(studies)
    for path in studies:
        chapter = json.loads(path.read_text())
        row, (small,) = found[chapter["about"]["data"]["name"]], chapter["rows"]["published"]
        assert generative_told.short(small["name"].rpartition("/")[2]) == row["smallest nearly as good"]
        assert row["kB"] == pytest.approx(small["bytes"] / 1000, rel=0.02) and row["costs"][0] in "+-"


def test_ways_whose_best_value_is_an_end_of_those_tried_are_named():
    rows = pd.DataFrame({"objective": "a", "way": ["x"] * 3 + ["PCD"] * 3, "value": [1, 2, 3] * 2, "chosen": False})
    within = rows.assign(chosen=rows["value"] == 2)
    assert generative_told.at_an_end(within).empty
    told = generative_told.ends_told(rows.assign(chosen=rows["value"] == 2))
    assert told == "The best value of each of 2 ways lies within the values that were tried."
    alone = pd.DataFrame({"objective": "a", "way": ["alone"], "value": 0.0, "chosen": True})
    assert generative_told.ends_told(pd.concat([within, alone])) == told  # it has no values to be tried
    best = rows.assign(chosen=rows["value"] == rows["way"].map({"x": 2, "PCD": 3}))
    assert generative_told.at_an_end(best).to_dict() == {("a", "PCD"): 3}
    assert generative_told.ends_told(best, {"a": "A"}).splitlines()[-1] == "- A, PCD: τ = 3, the greatest"
    study = SimpleNamespace(rows={"objectives": best}.get, about={"data": {"name": "larger"}})
    assert generative_told.ends_of(study) == f"**larger.** {generative_told.ends_told(best)}"
    assert generative_told.ends_of(None) == ""
    two = best[best["value"] > 1]
    assert generative_told.at_an_end(two).empty  # of two values each is an end
    against = pd.DataFrame({"objective": ["a", "b"], "rival": "x", "saved": 1.0})
    tried = [pd.concat([each, within.assign(objective="b")]) for each in (within, best)]
    assert [list(generative_told.decided(against, each)["objective"]) for each in tried] == [["a", "b"], ["b"]]


# --- runs that are killed ---------------------------------------------------------------------------------------

KILLED = """
import json, sys
from studylib.data import text
from studylib.experiments import generative, gpt, gpt_objectives, vae, vae_objectives
from studylib.training.recipe import Recipe
from studylib.tree.node import Node

kind, network, compressing, recipe = json.loads(sys.argv[2])
of = {"vae": (Node, vae.Family, vae.Autoencoder, generative.Compressing)}
of["gpt"] = gpt.Characters, gpt.Family, gpt.Transformer, gpt.Compressing
made, family, *records = of[kind]
node = made(sys.argv[1], "digits", 0, threads=1, device="cpu")
node.corpus = text.Corpus(context=16, characters=12_000)
family = family(node, records[0](**network), records[1](**compressing), Recipe(**recipe))
rows = family.tree() + (gpt.ways(family) if kind == "gpt" else []) + family.narrower()
if kind == "gpt":
    sums = dict.fromkeys(("l1", "quantization_error", "coded_bytes"), [0.1])
    values = {"sums": sums, "normalized": [0.1], "taus": [0.1], "sparsities": [0.7], "lr": 0.01}
    rows += gpt_objectives.compared(family, gpt_objectives.Objectives(**values))
    rows += [{"text": row["text"]} for row in gpt.written(family, ["teacher", "teacher-imp-int8"], count=20)]
else:
    sums = dict.fromkeys(("l1", "quantization_error", "coded_bytes"), [0.1])
    rows += vae_objectives.compared(family, vae_objectives.Objectives(sums, taus=[0.1], epochs=2, tuning=1))
    rows += vae.shown(family, ["teacher", "teacher-imp-int8"])
print(json.dumps(rows))
"""
COMPRESSING = {"rounds": 2, "tolerance": 0.5, "epochs": 1, "calibration_images": 32}
RECIPE = dataclasses.asdict(Recipe(epochs=2, lr=1e-2, batch_size=100, augmentation="none"))
KINDS = {
    "vae": [{"width": 4, "latent": 3, "student": 2, "narrower": [2], "draws": 2}, COMPRESSING],
    "gpt": [
        {"depth": 1, "width": 16, "student": 8, "narrower": [8]},
        COMPRESSING | {"deltas": [1], "bits": [4], "group": 8},
    ],
}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_chapter_that_is_killed_again_and_again_ends_with_the_rows_of_an_undisturbed_one(kind, tmp_path):
    given = json.dumps([kind, *KINDS[kind], RECIPE])
    how = {"cwd": ROOT, "env": environment(ROOT), "text": True, "stdout": subprocess.PIPE}

    def command(folder):
        return [sys.executable, "-c", KILLED, str(tmp_path / folder), given]

    undisturbed = subprocess.run(command("whole"), check=True, **how).stdout.splitlines()[-1]
    kills, rows = 0, tmp_path / "killed" / "rows"
    for share in (1, 4, 9, 17, 21, 24, 28):  # rows that are there when it is killed, which it then does not make again
        with subprocess.Popen(command("killed"), **how) as running:
            while len(list(rows.rglob("*.json"))) < share and running.poll() is None:
                time.sleep(0.02)
            running.send_signal(signal.SIGKILL)
            kills += running.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in rows.rglob("*.json")}
    done = subprocess.run(command("killed"), check=True, **how)
    assert kills >= 5 and len(kept) >= 20
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert done.stdout.splitlines()[-1] == undisturbed


# --- published files --------------------------------------------------------------------------------------------

MODELS = ROOT / "figures" / "models"
GENERATIVE = {name: of for name, of in restore.listing(MODELS).items() if "test_accuracy" not in of}
OF = {"test_bits_per_dim": ("11_vae", vae.Family, vae_told), "test_bits_per_char": ("10_gpt", gpt.Family, gpt_told)}


def test_one_file_of_each_kind_is_published():
    assert {next(key for key in about if key in OF) for about in GENERATIVE.values()} == set(OF)


@pytest.mark.parametrize("name", GENERATIVE)
def test_a_published_file_has_the_likelihood_that_was_published(name):
    about, file = GENERATIVE[name], (MODELS / name).read_bytes()
    score = next(key for key in about if key in OF)
    key, family, says = OF[score]
    chapter = json.loads((ROOT / "figures" / about["profile"] / f"{key}.json").read_text())
    model, settings = codec.decode(file), chapter["settings"]
    if score == "test_bits_per_char":
        data = text.load(read(text.Corpus, settings["text"], "text"), about["seed"])
        if data.digest != chapter["about"]["provenance"]["data_sha256"]:
            pytest.skip("another Python's help pages")
        found = text.bits(model, data.test, data).double().mean().item()
    else:
        draws = settings["network"]["draws"]
        data = likelihood.of(datasets.load(about["dataset"], about["seed"]), draws)
        found = data.task.predict(model, data.test, data).double()[:, 0].mean().item()
    assert found == pytest.approx(about[score], abs=1e-4) and len(file) == about["bytes"]
    nodes = generative_told.summary(pd.DataFrame(chapter["rows"]["combinations"]))
    assert about["node"] == family.point_of(about["seed"], says.smallest(nodes))


@pytest.mark.parametrize("name", GENERATIVE)
def test_a_published_file_draws_the_same_by_the_same_seed(name):
    model = codec.decode((MODELS / name).read_bytes())
    draw = sample.sampler_of(model).draw
    assert draw(model, 0) == draw(codec.decode((MODELS / name).read_bytes()), 0) != draw(model, 1)
