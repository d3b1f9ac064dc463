"""Profiles: what a chapter would refuse, perhaps hours later, is refused before anything trains, and named."""

import dataclasses
import json
import re
import resource
import subprocess
import sys
import time
import typing

import nbformat
import numpy as np
import pytest
from papermill import cli as papermill_cli
from projects import ROOT, copy_project, defaults_of, environment, study

from engine.run import code
from engine.settings import chapters, check, parameters
from studylib import settings
from studylib.training.recipe import Recipe

PROFILES = sorted(path.stem for path in parameters.FOLDER.glob("*.yaml") if path != chapters.FILE)
STUDIES = [(name, variant) for name in PROFILES for variant in ("", *parameters.variants(name))]
BEFORE = json.loads((ROOT / "tests" / "profiles_before.json").read_text())  # by the code before there were variants
REFUSED = (ROOT / "tests" / "refused.txt").read_text(encoding="utf-8").splitlines()[1:]
TRAINED = {"epochs", "lr", "batch_size"}
SCALE = {  # what decides how large and how long: no profile may leave it to a default
    "teacher": {"network": {"depth"}, "recipe": TRAINED},
    "distill": {"recipe": TRAINED, "student": {"widths", "hidden"}},
    "prune": {"pruning": {"rounds", "tolerance"}, "recipe": TRAINED},
    "svd": {"factorization": {"delta"}},
    "int8": {"quantization": {"calibration_images"}},
    "moo": {
        "network": {"widths", "hidden"},
        "recipe": TRAINED,
        "tuning": {"epochs", "lr"},
        "comparison": {"repetitions", "sparsities", "sums", "shrinkages", "taus", "rates"},
    },
    "sweep": {"controls": {"growths", "depth", "calibration_images"}, "recipe": TRAINED},
    "frontier": {
        "grown": {"networks"},
        "recipe": TRAINED,
        "supervision": {"temperature"},
        "shrinking": {"sparsities", "bits", "epochs", "lr", "rounding_epochs"},
    },
    "survey": {
        "recipe": TRAINED,
        "recovery": TRAINED,
        "survey": {"repetitions", "networks"},
    },
    "gpt": {
        "text": {"name"},
        "network": {"depth", "width", "student", "narrower"},
        "recipe": TRAINED,
        "compressing": {"rounds", "tolerance", "epochs", "lr"},
        "comparison": {"sums", "taus"},
    },
    "vae": {
        "network": {"width", "latent", "student", "narrower", "draws"},
        "recipe": TRAINED,
        "compressing": {"rounds", "epochs"},
        "comparison": {"sums", "taus", "epochs"},
    },
    "screening": {"readout": {"shares", "narrower"}, "recipe": TRAINED, "comparison": {"problems", "paths", "workers"}},
    "federated": {
        "splits": {"clients", "classes_each"},
        "federation": {"rounds", "teaching"},
        "network": {"widths", "hidden"},
        "recipe": TRAINED,
        "teacher": {"name"},
        "teaching": TRAINED,
        "comparison": {"repetitions", "alphas", "forms", "teachers"},
    },
    "controller": {
        "network": {"name"},
        "recipe": TRAINED,
        "comparison": {"budgets", "repetitions", "tuning_epochs", "every"},
    },
}
LATER = {
    "survey",
    "gpt",
    "vae",
    "screening",
    "federated",
    "controller",
}  # chapters that came after the profiles had other names
SHOWN = {  # the same, of what only a technique's chapter trains
    "teacher": {"choosing": {"seeds"}},
    "distill": {"pairs": {"seeds", "temperatures", "alphas"}},
    "prune": {"five_ways": {"seeds", "sparsities", "epochs"}},
    "svd": {"ranks": {"seeds", "deltas"}, "tuning": {"epochs"}},
    "int8": {"latency": {"compiled"}, "few_bits": {"bits"}, "tuning": TRAINED},
}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Writes a profile and loads it."""
    for path in parameters.FOLDER.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(parameters, "FOLDER", tmp_path)
    monkeypatch.setattr(chapters, "FILE", tmp_path / "chapters.yaml")

    def load(text, study="dataset: digits", name="mine", **options):
        (tmp_path / "mine.yaml").write_text(f"study: {{{study}}}\n" + text)
        return parameters.load(name, **options)

    return load


@pytest.fixture
def refused(profile):
    """What is said of a profile that cannot be run, in one line."""

    def said(text, study="dataset: digits", **options):
        with pytest.raises(parameters.ParameterError) as caught:
            check.check_values(profile(text, study, **options))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return said


def test_there_are_few_profiles_and_all_of_them_are_studies():
    assert set(PROFILES) == {"smoke", "digits", "mnist", "cifar10", "paper", "small_files"}


@pytest.mark.parametrize(("name", "variant"), STUDIES)
def test_every_profile_is_valid_and_states_its_scale(name, variant):
    sections = parameters.load(name, variant=variant)
    declared, shown = chapters.declared(), sections["study"]["chapters"]
    assert set(SCALE) == set(chapters.notebooks())
    made = [key for key in declared if key in (chapters.root(), *sections["study"]["stages"], *shown)]
    for stage, needed in [(s, SCALE[s]) for s in made] + [(s, SHOWN.get(s, {})) for s in shown]:
        for parameter, keys in needed.items():
            given = sections[stage].get(parameter, {})
            keys = {"name"} if "name" in given else keys  # another network in the DenseNet's place
            assert keys <= set(given), f"{name}: {stage}.{parameter}"
    for stage in declared:
        assert list(check.records_of(stage, sections)) == list(declared[stage].records)
    if "moo" in shown:
        assert sections["moo"]["comparison"]["repetitions"] >= 3


@pytest.mark.parametrize("name", ["digits", "mnist", "smoke"])
@pytest.mark.parametrize("variant", ["", "two_objectives"])
def test_the_profiles_whose_images_come_with_a_package_can_be_run(name, variant):
    assert check.check_values(parameters.load(name, variant=variant)).startswith("sha256-")


@pytest.mark.parametrize("name", [name for name in PROFILES if name != "small_files"])
def test_a_whole_tree_has_a_variant_whose_teacher_descends_l1_too(name):
    assert parameters.load(name, variant="two_objectives")["teacher"]["penalty"]["name"] == "l1"


@pytest.mark.parametrize("former", list(BEFORE))
def test_what_a_former_profile_ran_is_run_with_the_same_settings_now(former):
    """To the last key, of all that nodes and chapters are handed; what is not run, a variant may inherit."""
    name, _, variant = BEFORE[former]["now"].partition("-")
    sections = parameters.load(name, variant=variant)
    study = sections["study"]
    study["chapters"] = [key for key in study["chapters"] if key not in LATER]
    assert {"study": study, "latency": sections["latency"]} == {s: BEFORE[former][s] for s in ("study", "latency")}
    nodes = {key: parameters.of_node(key, sections) for key in ("teacher", *study["stages"])}
    assert nodes["teacher"].pop("guiding") == {}  # it came later
    assert nodes == BEFORE[former]["nodes"]
    if "teacher" in study["chapters"]:
        assert sections["teacher"].pop("guiding") == {}
    assert {key: sections[key] for key in study["chapters"]} == BEFORE[former]["chapters"]


@pytest.mark.parametrize(
    "former", [former for former, each in BEFORE.items() if "-" not in former and each["now"] != former]
)
def test_a_former_name_is_told_its_new_one(former):
    name, _, variant = BEFORE[former]["now"].partition("-")
    now = f"PROFILE={name} VARIANT={variant}" if variant else f"PROFILE={name}"
    with pytest.raises(parameters.ParameterError, match=f"^profile '{former}' is now {now}$"):
        parameters.load(former)
    assert parameters.run_name(name, variant) == BEFORE[former]["now"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {"variant": "moo", "name": "digits"}, "variant 'moo' is now 'two_objectives'"),
        ("", {"stages": "kd"}, "stages: 'kd' is now 'distill'"),
        ("imp: {pruning: {rounds: 3}}", {}, "section 'imp' is now 'prune'"),
        ("roots: {wide: {network: {growth: 24}}}", {}, "section 'roots' is now 'variants'"),
    ],
)
def test_so_is_a_former_stage_section_or_root(profile, text, options, message):
    with pytest.raises(parameters.ParameterError, match=message):
        profile(text, **options)


def test_the_paper_profile_is_the_paper():
    sections = parameters.load("paper")
    records = {stage: check.records_of(stage, sections) for stage in ("teacher", "distill", "prune", "svd")}
    paper = {"lr": 1e-3, "min_lr": 1e-7, "batch_size": 128, "optimizer": "adam", "schedule": "cosine"}
    for stage, epochs in {"teacher": 100, "distill": 500, "prune": 100}.items():
        assert records[stage]["recipe"] == Recipe(epochs=epochs) == Recipe(epochs, **paper), stage
    assert records["teacher"]["network"].depth == 40 and not records["teacher"]["penalty"].name
    assert (records["distill"]["distillation"].temperature, records["distill"]["distillation"].alpha) == (5.0, 0.7)
    assert (records["prune"]["pruning"].fraction, records["svd"]["factorization"].delta) == (0.2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("techer: {recipe: {epochs: 3}}", r"mine\.yaml: section 'techer' is unknown; did you mean 'teacher'"),
        ("teacher: {recpie: {epochs: 3}}", r"mine\.yaml: teacher\.recpie: unknown; did you mean 'recipe'"),
        ("teacher: {epochs: 3}", "teacher.epochs: unknown: expected one of .*recipe"),
        ("study: {datset: digits}", "study.datset: unknown; did you mean 'dataset'"),
        ("latency: {bach: 3}", "latency.bach: unknown; did you mean 'batch'"),
    ],
)
def test_a_misspelt_section_or_parameter_names_itself_and_the_nearest(profile, text, message):
    with pytest.raises(parameters.ParameterError, match=message):
        profile(*(("", text[8:-1]) if text.startswith("study") else (text,)))


@pytest.mark.parametrize("stage", list(SCALE))
def test_a_misspelt_key_of_any_record_names_itself_and_the_nearest(refused, stage):
    for parameter in chapters.declared()[stage].records:
        key = dataclasses.fields(chapters.declared()[stage].record(parameter))[0].name
        said = refused(f"{stage}: {{{parameter}: {{{key}x: 3}}}}")
        assert said == f"{stage}.{parameter}.{key}x: unknown; did you mean '{key}'?"


@pytest.mark.parametrize("row", REFUSED)
def test_what_cannot_be_run_is_named_before_anything_trains(refused, row):
    text, _, message = row.partition(" → ")
    said = re.sub(r"^\S+/mine\.yaml: ", "", refused(text))
    assert re.match(".*".join(map(re.escape, message.split("…"))), said), said


def test_images_of_ones_own_are_read_before_anything_trains(refused, tmp_path):
    """And what networks want of them is held against what they are."""
    name, draw = tmp_path / "my own: images.npz", np.random.default_rng(0)
    study = f"dataset: 'images:{name}'"
    assert refused("", study).startswith(f"study: {name}: cannot be read: No such file or directory; expected an .npz")
    arrays = {f"x_{part}": draw.integers(0, 256, (40, 3, 3), np.uint8) for part in ("train", "test")}
    np.savez(name, **arrays, y_train=np.arange(40) % 4, y_test=np.arange(40) % 4 - 1)
    assert refused("", study).startswith(f"study: {name}: y_test holds -1: expected labels 0…k−1")
    np.savez(name, **arrays, y_train=np.arange(40) % 4, y_test=np.arange(40) % 4)
    assert "image_size=3: expected at least 4" in refused("teacher: {network: {depth: 7}}", study)


# --- variants and chapters --------------------------------------------------------------------------------------


def test_a_variant_replaces_parameters_of_any_section_and_keeps_the_others(profile):
    text = """teacher: {network: {depth: 7, growth: 5}, recipe: {epochs: 3}}
latency: {batch: 8, repeats: 2}
needs: {gpu: true}
variants:
  wide:
    study: {stages: [svd], chapters: []}
    teacher: {network: {growth: 24}}
    latency: {batch: 16}
    needs: {cores: 2}
"""
    own, wide = profile(text), profile(text, variant="wide")
    assert own["teacher"]["network"] == {"depth": 7, "growth": 5}
    assert wide["teacher"] == own["teacher"] | {"network": {"growth": 24}}  # whole, with its depth
    assert check.records_of("teacher", wide)["network"].depth == 40
    assert wide["latency"] == own["latency"] | {"batch": 16} and own["latency"]["repeats"] == 2
    assert wide["study"] == own["study"] | {"stages": ["svd"], "chapters": []}
    assert own["needs"] == {"cores": 0, "hours": 0, "gpu": True}
    assert wide["needs"] == {"cores": 2, "hours": 0, "gpu": False}  # these it says anew
    assert parameters.run_name("mine") == "mine" and parameters.variants("mine") == ["wide"]


def test_a_profile_and_a_variant_may_have_some_of_the_chapters(profile):
    def shown(study, text="", **options):
        return profile(text, f"dataset: digits, {study}", **options)["study"]["chapters"]

    assert shown("seeds: [0]") == [key for key in chapters.notebooks() if not chapters.declared()[key].extra]
    assert shown("chapters: [distill, frontier]") == ["distill", "frontier"] and not shown("chapters: []")
    assert shown("chapters: []", "variants: {seen: {study: {chapters: [svd]}}}", variant="seen") == ["svd"]
    with pytest.raises(
        parameters.ParameterError, match=r"study\.chapters: 'frontir' is unknown; did you mean 'frontier'"
    ):
        shown("chapters: [frontir]")
    with pytest.raises(parameters.ParameterError, match=r"study\.lessons: unknown"):
        shown("lessons: false")


@pytest.mark.parametrize(
    ("text", "variant", "message"),
    [
        ("variants: {wide: {teacher: {network: {growth: 24}}}}", "wise", "'wise' is unknown; did you mean 'wide'"),
        ("", "wide", "variant 'wide' is unknown"),
        ("variants: {wide: {techer: {network: {}}}}", "wide", "variants: wide: section 'techer' is unknown; did you"),
        ("variants: {wide: {teacher: {netwrk: {}}}}", "wide", "variants: wide: teacher.netwrk: unknown; did you mean"),
        ("variants: {wide: {teacher: {network: 24}}}", "wide", "wide: teacher.network=24: expected a dictionary"),
        ("variants: {wide: {teacher: 24}}", "wide", "variants: wide: teacher=24: expected a dictionary"),
        ("variants: {wide: {study: {stages: [scd]}}}", "wide", "wide: study.stages: 'scd' is unknown; did you mean"),
        ("variants: {wide: {teacher: {study: {seed: 3}}}}", "wide", "variants: wide: teacher.study: unknown"),
        ("variants: {Wi-de: {teacher: {network: {growth: 3}}}}", "", "Wi-de: expected a name"),
        ("variants: {wide: 3}", "", "wide: expected a name and its sections"),
        ("variants: [wide]", "", "variants: expected a name and its sections"),
        ("variants: {wide: {variants: {}}}", "wide", "variants: wide: section 'variants' is unknown"),
    ],
)
def test_a_variant_that_cannot_be_is_named(profile, text, variant, message):
    with pytest.raises(parameters.ParameterError, match=message):
        profile(text, variant=variant)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("network: {grwth: 24}", "teacher.network.grwth: unknown; did you mean 'growth'"),
        ("network: {growth: x}", "teacher.network.growth='x': expected a whole number"),
        ("penalty: {name: l1, tau: 7}", "teacher.penalty.tau=7: expected at most 1"),
        ("penalty: {name: l1}", "teacher.penalty: label_smoothing=0.1: expected 0 beside a penalty"),
    ],
)
def test_the_settings_of_a_variant_are_checked_like_a_profiles(refused, values, message):
    text = f"teacher: {{recipe: {{label_smoothing: 0.1}}}}\nvariants: {{wide: {{teacher: {{{values}}}}}}}"
    assert message in refused(text, variant="wide")


# --- what is set where ------------------------------------------------------------------------------------------


def test_numbers_are_those_of_yaml_1_2(profile):
    assert profile("teacher: {recipe: {epochs: 010, batch_size: 0x10}}")["teacher"]["recipe"] == {
        "epochs": 10,
        "batch_size": 16,
    }
    assert profile("teacher: {recipe: {lr: 1e-3, ema: 1e-07, weight_decay: 5}}")["teacher"]["recipe"] == {
        "lr": 0.001,
        "ema": 1e-7,
        "weight_decay": 5,
    }


@pytest.mark.parametrize("text", ["teacher: {recipe: {epochs: 3, epochs: 4}}", "teacher: {epochs: 3, epochs: 4}"])
def test_a_key_given_twice_is_an_error(profile, text):
    with pytest.raises(parameters.ParameterError, match=r'mine\.yaml, line 2: found duplicate key "epochs"'):
        profile(text)


@pytest.mark.parametrize("key", ["study", "out", "parent", "reuse", "published", "run", "seeds", "stages", "profile"])
def test_what_the_engine_sets_cannot_be_set(profile, key):
    with pytest.raises(parameters.ParameterError, match=rf"distill.{key}: unknown[;:]"):
        profile(f"distill: {{{key}: 1}}")


@pytest.mark.parametrize("key", [key for key, chapter in chapters.declared().items() if chapter.reads])
def test_nor_can_the_nodes_that_a_chapter_reads(profile, key):
    for parameter in chapters.declared()[key].reads:
        with pytest.raises(parameters.ParameterError, match=rf"{key}.{parameter}: unknown"):
            profile(f"{key}: {{{parameter}: runs/other}}")
    assert profile("distill: {student: {hidden: [9, 9]}}")["distill"]["student"]  # there no node, but a shape


@pytest.mark.parametrize("key", ["seed", "threads", "device", "dataset"])
def test_what_all_chapters_share_is_said_once_in_the_study(profile, key):
    with pytest.raises(parameters.ParameterError, match=rf"distill\.{key}: unknown"):
        profile(f"distill: {{{key}: 1}}")


def test_seeds_and_stages_can_be_chosen_and_keep_their_order(profile):
    found = profile("", seeds="4, 2", stages="int8 distill")["study"]
    assert found["seeds"] == [4, 2] and found["stages"] == ["distill", "int8"]
    assert profile("", stages="none")["study"]["stages"] == []


def test_other_seeds_take_no_chapter_in_the_place_of_the_first_ones(profile):
    own = profile("", study="dataset: digits, seeds: [1, 2]")["study"]["chapters"]
    assert own and profile("", study="dataset: digits, seeds: [1, 2]", seeds="1 5")["study"]["chapters"] == own
    assert profile("", study="dataset: digits, seeds: [1, 2]", seeds="2")["study"]["chapters"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": "distill pruen"}, "study.stages: 'pruen' is unknown; did you mean 'prune'"),
        ({"seeds": "0 x"}, "seeds '0 x': expected whole numbers"),
        ({"seeds": "1 1"}, "expected different ones"),
    ],
)
def test_an_unknown_stage_or_seed_is_named(profile, options, message):
    with pytest.raises(parameters.ParameterError, match=message):
        profile("", **options)


# --- dictionaries -----------------------------------------------------------------------------------------------


def test_a_dictionary_replaces_the_notebooks_and_what_it_leaves_out_is_the_records_default(profile):
    """A node is the same whatever stands in a notebook, which is for its readers."""
    for text in ("", "teacher: {}", "teacher: {network: {}, recipe: {}}"):
        sections = profile(text)
        assert [sections["teacher"][name] for name in chapters.declared()["teacher"].records] == [{}] * 5
        assert check.records_of("teacher", sections)["recipe"] == Recipe()
    sections = profile("teacher: {recipe: {epochs: 7}}\ndistill: {student: {hidden: [9, 9]}}")
    assert defaults_of(chapters.notebooks()["teacher"])["network"]["depth"] == 16
    assert sections["teacher"]["recipe"] == {"epochs": 7}
    assert parameters.of_node("teacher", sections)["network"] == {}
    found = check.records_of("teacher", sections)
    assert found["recipe"] == Recipe(epochs=7) and found["network"].depth == 40
    assert check.records_of("distill", sections)["student"].widths == [32, 64, 128]


def test_the_settings_of_nodes_are_those_that_their_cells_use_and_no_chapters(profile):
    sections = profile("teacher: {recipe: {epochs: 7}, choosing: {seeds: 2}}", stages="distill")
    found = check.settings_of_nodes(sections)
    assert list(found) == ["study", "teacher", "distill"] and found["study"] == {"dataset": "digits"}
    assert list(found["teacher"]) == ["network", "recipe", "penalty", "guiding"]
    assert found["teacher"]["recipe"] == dataclasses.asdict(Recipe(epochs=7))  # its defaults, too
    assert set(found["distill"]) == {"distillation", "student", "recipe"}
    for stage in (chapters.root(), *chapters.techniques(*chapters.APPLIED)):
        notebook = chapters.declared()[stage].notebook
        assert set(parameters.of_node(stage, sections)) <= code.names(notebook, lesson=False)


CELL = """
from studylib.training.recipe import Recipe
from studylib.settings import read

recipe = read(Recipe, recipe, "recipe")
print("recipe:", recipe.epochs, recipe.lr, recipe.batch_size)"""


@pytest.fixture
def executed(tmp_path):
    """A notebook whose own recipe has 7 epochs in steps of 32 images, run by the engine."""
    cells = [nbformat.v4.new_code_cell('recipe: dict = {"epochs": 7, "batch_size": 32}  # how'), CELL]
    cells[0].metadata["tags"], cells[1] = ["parameters"], nbformat.v4.new_code_cell(CELL.strip())
    kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "in.ipynb")

    def run(*arguments):
        command = [sys.executable, "engine/run/execute.py", str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb")]
        return subprocess.run([*command, *arguments], cwd=ROOT, env=environment(ROOT), text=True, capture_output=True)

    return run


def papermills(*arguments):
    """What papermill's command line makes of parameters, as JSON."""
    taken = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(papermill_cli, "execute_notebook", lambda **given: taken.update(given["parameters"]))
        papermill_cli.papermill.main(["in.ipynb", "out.ipynb", *arguments], standalone_mode=False)
    return json.dumps(taken)


def test_a_notebook_that_is_run_with_a_dictionary_has_nothing_of_its_own_left(executed, tmp_path):
    for arguments, recipe in {
        (): Recipe(epochs=7, batch_size=32),
        ("--parameters", '{"recipe": {"lr": 0.5}}'): Recipe(lr=0.5),
    }.items():
        done = executed(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        said = f"recipe: {recipe.epochs} {recipe.lr} {recipe.batch_size}"
        assert said in (tmp_path / "out.ipynb").read_text(encoding="utf-8")


def test_a_dictionary_given_as_text_is_refused_in_a_sentence_that_shows_the_right_form(executed, tmp_path):
    said = r"recipe='\{epochs: 3\}': expected a dictionary; -y 'recipe: \{…\}' hands one on, -p text alone"
    with pytest.raises(settings.SettingError, match=said):
        settings.read(Recipe, "{epochs: 3}", "recipe")
    done = executed("--parameters", papermills("-p", "recipe", "{epochs: 3}"))
    assert done.returncode and "SettingError: recipe='{epochs: 3}': expected a dictionary; -y" in done.stderr
    done = executed("--parameters", papermills("-y", "recipe: {epochs: 3}"))
    assert done.returncode == 0 and "recipe: 3 0.001 128" in (tmp_path / "out.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize("stage", list(SCALE))
def test_what_stands_in_a_notebook_is_checked_like_a_profile(profile, stage):
    own = defaults_of(chapters.notebooks()[stage])
    text = f"{stage}: " + json.dumps({name: own[name] for name in chapters.declared()[stage].records})
    check.check_values(profile(text, f"dataset: digits, chapters: [{stage}]"))
    settings.read(settings.Study, own["study"], "study")


def test_the_defaults_of_records_are_checked_like_a_profile(profile, monkeypatch):
    check.check_values(profile(""))
    monkeypatch.setattr(Recipe.__init__, "__defaults__", (0, *Recipe.__init__.__defaults__[1:]))
    with pytest.raises(parameters.ParameterError, match=r"recipe\.epochs=0: expected at least 1"):
        check.check_values(profile(""))


# --- the data ---------------------------------------------------------------------------------------------------


def test_what_is_not_run_is_held_against_no_data(profile):
    """Neither calibration images nor files that are not there matter to a chapter that is left out."""
    text = "int8: {quantization: {calibration_images: 601}}\nfrontier: {supervision: {teachers: [absent.slnc]}}"
    check.check_values(profile(text, "dataset: digits, chapters: [teacher]", stages="distill"))


def test_a_published_file_serves_its_own_seed_alone(profile, refused):
    text = "teacher: {network: {name: figures/models/digits-densenet16-z89.3-8bit.slnc}}"
    check.check_values(profile(text, seeds="0"))
    assert re.search(r"^teacher.network: .*seed 0: expected digits, seed 1", refused(text, seeds="0 1"))
    text = "frontier: {supervision: {teachers: [figures/models/digits-densenet16-z89.3-8bit.slnc]}}"
    check.check_values(profile(text, seeds="0 1"))  # chapter 8 is of the first
    said = refused(text, study="dataset: digits, seeds: [1, 0]")
    assert re.search(r"^frontier.supervision: teachers: .*seed 0: expected digits, seed 1", said)


@pytest.mark.parametrize(
    ("wrong", "message"), [("dataset: digit", "'digit'"), ("dataset: digits, device: gpu", "'gpu'")]
)
def test_a_wrong_data_set_or_device_is_named_before_anything_trains(refused, wrong, message):
    assert message in refused("", wrong) and "expected" in refused("", wrong)


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(parameters.ParameterError, match="did you mean 'digits'"):
        parameters.load("digit")
    for name in ("../secret", "chapters"):
        with pytest.raises(parameters.ParameterError, match="expected the name of a file"):
            parameters.load(name)


def test_a_bad_profile_stops_the_run_before_anything_trains(tmp_path):
    project = copy_project(tmp_path / "copy")
    (project / "papermill_params" / "bad.yaml").write_text("study: {dataset: digits}\nprune: {pruning: {ronds: 3}}\n")
    result = study(project, "--profile", "bad")
    assert result.returncode != 0
    assert "prune.pruning.ronds: unknown; did you mean 'rounds'" in result.stdout
    assert not list((project / "runs").rglob("seed*"))


# --- YAML -------------------------------------------------------------------------------------------------------


def test_merge_keys_take_over_what_they_name(profile):
    text = "teacher: {recipe: &t {epochs: 3, lr: 1e-2}}\nprune: {recipe: {<<: *t, views: 4}}\n"
    sections = profile(text + "distill: {recipe: {<<: *t, epochs: 5}}")
    assert sections["prune"]["recipe"] == {"epochs": 3, "lr": 0.01, "views": 4}
    assert sections["distill"]["recipe"] == {"epochs": 5, "lr": 0.01}
    assert sections["teacher"]["recipe"] == {"epochs": 3, "lr": 0.01}
    text = "teacher: {recipe: &a {epochs: 3}}\nprune: {recipe: &b {<<: *a, epochs: 4, lr: 0.5}}\n"
    both = profile(text + "distill: {recipe: {<<: [*a, *b]}}")
    assert both["distill"]["recipe"] == {"epochs": 3, "lr": 0.5} and both["prune"]["recipe"]["epochs"] == 4
    whole = profile("teacher: &t {recipe: {epochs: 3}}\nprune: {<<: *t, pruning: {rounds: 4}}")  # of sections alike
    assert whole["prune"] == {"recipe": {"epochs": 3}, "pruning": {"rounds": 4}, "five_ways": {}}


def test_one_merge_is_given_once(profile):
    with pytest.raises(parameters.ParameterError, match=r'mine\.yaml, line 3: found duplicate merge key "<<"'):
        profile("teacher: {recipe: &t {lr: 1.0}}\nprune: {recipe: {<<: *t, <<: *t}}")


def test_a_profile_that_is_not_utf_8_is_named(profile, tmp_path):
    (tmp_path / "latin.yaml").write_bytes("# gr\xf6\xdfer".encode("latin-1"))
    with pytest.raises(parameters.ParameterError, match=r"latin\.yaml: not valid YAML"):
        parameters.load("latin")


# --- bounds -----------------------------------------------------------------------------------------------------


def numbers_of(record):
    """Field → "int" or "float", the bounds of each number, and whether it is a list of them."""
    found = {}
    for name, hint in typing.get_type_hints(record, include_extras=True).items():
        kind, *marks = typing.get_args(hint)
        if several := typing.get_origin(kind) is list:
            kind, *marks = typing.get_args(typing.get_args(kind)[0]) or typing.get_args(kind)
        if kind in (int, float):
            bounds = {type(each).__name__.lower(): each for mark in marks for each in getattr(mark, "metadata", ())}
            found[name] = (kind.__name__, set(bounds), several)
    return found


NUMBERS = {  # a choice's recipe is like any other
    (stage, parameter, name): about
    for stage, chapter in chapters.declared().items()
    for parameter in chapter.records
    if (chapter.role, parameter) != ("choice", "recovery")
    for name, about in numbers_of(chapter.record(parameter)).items()
}
HELD_BESIDE = {"min_lr": "at most lr"} | dict.fromkeys(
    ["calibration_images", "images"], "no more than there are"
)  # in place of a bound above
HUGE = {"int": ["1000000000", str(2**64), "-1000000000"], "float": ["1e30", ".inf", "-.inf", ".nan", "-1e30"]}


def test_the_numbers_are_all_of_them():
    assert len(NUMBERS) > 100
    found = {name for _, _, name in NUMBERS}
    needed = {key for stage in (*SCALE.values(), *SHOWN.values()) for keys in stage.values() for key in keys}
    assert needed - found == {
        "networks",
        "name",
        "compiled",
        "problems",
        "paths",
        "forms",
        "teachers",
    }  # texts, yes or no


@pytest.mark.parametrize("place", list(NUMBERS), ids=".".join)
def test_every_number_states_a_bound_on_both_sides(place):
    bounds = NUMBERS[place][1]
    assert bounds & {"ge", "gt"} and (bounds & {"le", "lt"} or place[-1] in HELD_BESIDE)


@pytest.mark.parametrize("place", list(NUMBERS), ids=".".join)
def test_every_number_has_a_bound_on_both_sides(profile, place):
    """In a second each, and without the memory that a network of this size would take."""
    (stage, parameter, name), (kind, _, several) = place, NUMBERS[place]
    usual = getattr(chapters.declared()[stage].record(parameter)(), name)
    for value in HUGE[kind]:
        given = f"[{', '.join([value, *map(str, usual[1:])])}]" if several else value
        study = f"dataset: digits, stages: [{stage}]" if stage in chapters.techniques("choice") else "dataset: digits"
        given += ", rounding: gptq" if (stage, name) == ("int4", "calibration_images") else ""  # it reads images
        sections, started = profile(f"{stage}: {{{parameter}: {{{name}: {given}}}}}", study), time.process_time()
        with pytest.raises(parameters.ParameterError) as caught:
            check.check_values(sections)
        said = str(caught.value)
        assert said.startswith((f"{stage}.{parameter}.{name}", f"{stage}.{parameter}: {name}="))
        assert "expected" in said and "\n" not in said and time.process_time() - started < 5  # on a slow core


@pytest.mark.parametrize("text", ["study.seeds", "study.threads", "latency.batch", "latency.repeats"])
@pytest.mark.parametrize("value", [10**9, 2**64, -(10**9)])
def test_so_have_the_numbers_of_the_study_and_its_latency(refused, text, value):
    section, _, name = text.partition(".")
    if name == "seeds" and value == 10**9:  # as good as any
        return
    given = f"{name}: [{value}]" if name == "seeds" else f"{name}: {value}"
    said = refused("", f"dataset: digits, {given}") if section == "study" else refused(f"{section}: {{{given}}}")
    assert re.search(rf"{re.escape(text)}(\[0\])?=", said) and "expected" in said


def test_a_rate_below_the_least_is_lowered_where_a_chapter_derives_it(profile):
    """Chapter 8 trains rounded weights at a tenth of a rate, chapter 3 five ways for other epochs."""
    text = "frontier: {shrinking: {lr: 5e-7}}\nmoo: {recipe: {min_lr: 1e-3, lr: 1e-3}, tuning: {lr: 1e-3}}"
    check.check_values(profile(text))


@pytest.mark.parametrize("seeds", ["4294966296", "0 18446744073709551616"])
def test_a_seed_that_no_split_can_be_drawn_by_is_named(profile, seeds):
    message = rf"study\.seeds\[.\]=.*: expected at most {settings.MOST_SEED}$"
    with pytest.raises(parameters.ParameterError, match=message):
        profile("", seeds=seeds)
    with pytest.raises(parameters.ParameterError, match=message):
        profile("", study=f"dataset: digits, seeds: [{seeds.replace(' ', ', ')}]")


def test_the_seeds_that_chapters_go_on_to_can_be_drawn_by_too(profile, refused):
    last = settings.MOST_SEED
    for stage, parameter in {"moo": "comparison", "distill": "pairs", "svd": "ranks", "prune": "five_ways"}.items():
        key = "repetitions" if stage == "moo" else "seeds"
        assert f"{key}=1001: expected at most 1000" in refused(f"{stage}: {{{parameter}: {{{key}: 1001}}}}")
    assert last + 1000 - 1 < 2**32  # the most that scikit-learn draws by
    check.check_values(profile("", f"dataset: digits, seeds: [{last}]"))


def test_a_network_too_deep_is_refused_in_seconds_and_little_memory(tmp_path):
    project = copy_project(tmp_path / "copy")
    deep = "study: {dataset: digits}\nteacher: {network: {depth: 4099}}\n"
    (project / "papermill_params" / "deep.yaml").write_text(deep)
    measured = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    measured += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    command = [sys.executable, "-c", measured, sys.executable, "engine/run/study.py", "--profile", "deep", "--", "-n"]
    started = time.monotonic()
    result = subprocess.run(command, cwd=project, env=environment(project), text=True, capture_output=True)
    assert result.returncode and "teacher.network.depth=4099: expected at most 400" in result.stderr
    assert int(result.stdout.split()[-1]) < 2e6  # kB
    assert time.monotonic() - started < 60  # ten seconds on a machine with nothing else to do


def test_the_largest_networks_that_are_asked_about_take_no_memory(refused):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for text in ("name: vgg 1000", "depth: 400, growth: 4096", "depth: 7, growth: 4096"):
        assert "expected at most" in refused(f"teacher: {{network: {{{text}}}}}")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # kB; weights alone would take more


def test_declarations_are_read_anew_when_they_change(profile, tmp_path):
    profile("")
    text = (tmp_path / "chapters.yaml").read_text()
    (tmp_path / "chapters.yaml").write_text(text.replace("role: root", "role: rot"))
    with pytest.raises(parameters.ParameterError, match="role='rot'"):
        profile("")
