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
import pytest
import yaml
from papermill import cli as papermill_cli
from projects import ROOT, copy_project, environment, study

from engine.run import code
from engine.settings import chapters, check, parameters
from studylib import settings
from studylib.training.recipe import Recipe

PROFILES = sorted(path.stem for path in parameters.FOLDER.glob("*.yaml") if path != chapters.FILE)
TRAINED = {"epochs", "lr", "batch_size"}
SCALE = {  # what decides how large and how long: no profile may leave it to a default
    "teacher": {"network": {"depth"}, "recipe": TRAINED},
    "kd": {"recipe": TRAINED, "student": {"widths", "hidden"}},
    "imp": {"pruning": {"rounds", "tolerance"}, "recipe": TRAINED},
    "svd": {"svd": {"delta"}},
    "int8": {"int8": {"calibration_images"}},
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
}
SHOWN = {  # the same, of what only a technique's chapter trains
    "teacher": {"choosing": {"seeds"}},
    "kd": {"pairs": {"seeds", "temperatures", "alphas"}},
    "imp": {"five_ways": {"seeds", "sparsities", "epochs"}},
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

    def load(text, study="dataset: digits", **options):
        (tmp_path / "mine.yaml").write_text(f"study: {{{study}}}\n" + text)
        return parameters.load("mine", **options)

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


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_valid_and_states_its_scale(name):
    sections = parameters.load(name)
    declared, shown = chapters.declared(), sections["study"]["chapters"]
    assert set(SCALE) == set(declared)
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
    if made[1:] == list(declared)[1:] or (not shown and sections["study"]["stages"] == chapters.techniques()):
        assert parameters.load(name, root="moo")["teacher"]["penalty"]["name"] == "l1"  # a whole tree


@pytest.mark.parametrize("name", ["digits", "smoke"])
@pytest.mark.parametrize("root", ["", "moo"])
def test_the_profiles_of_the_digits_can_be_run(name, root):
    assert check.check_values(parameters.load(name, root=root)).startswith("sha256-")


def test_the_paper_profile_is_the_paper():
    sections = parameters.load("paper")
    records = {stage: check.records_of(stage, sections) for stage in ("teacher", "kd", "imp", "svd")}
    paper = {"lr": 1e-3, "min_lr": 1e-7, "batch_size": 128, "optimizer": "adam", "schedule": "cosine"}
    for stage, epochs in {"teacher": 100, "kd": 500, "imp": 100}.items():
        assert records[stage]["recipe"] == Recipe(epochs=epochs) == Recipe(epochs, **paper), stage
    assert records["teacher"]["network"].depth == 40 and not records["teacher"]["penalty"].name
    assert (records["kd"]["distillation"].temperature, records["kd"]["distillation"].alpha) == (5.0, 0.7)
    assert (records["imp"]["pruning"].fraction, records["svd"]["svd"].delta) == (0.2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("techer: {recipe: {epochs: 3}}", r"mine\.yaml: section: 'techer' is unknown; did you mean 'teacher'"),
        ("teacher: {recpie: {epochs: 3}}", r"mine\.yaml: teacher: 'recpie' is unknown; did you mean 'recipe'"),
        ("teacher: {epochs: 3}", "teacher: 'epochs' is unknown: expected one of .*recipe"),
        ("study: {datset: digits}", "study: 'datset' is unknown; did you mean 'dataset'"),
        ("latency: {bach: 3}", "latency: 'bach' is unknown; did you mean 'batch'"),
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


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("teacher: {recipe: 3}", r"teacher.recipe: found 3 \(int\), expected dict"),
        ("teacher: {recipe: [3]}", r"teacher.recipe: found \[3\] \(list\), expected dict"),
        ("teacher: {recipe: }", r"teacher.recipe: found None \(NoneType\), expected dict"),
        ("teacher: {recipe: 'epochs: 3'}", r"teacher.recipe: found 'epochs: 3' \(str\), expected dict"),
        ("teacher: 3", "teacher: expected key: value lines, found 3"),
        ("teacher: {recipe: {epochs: 3.5}}", "teacher.recipe.epochs=3.5: expected a whole number"),
        ("teacher: {recipe: {epochs: true}}", "teacher.recipe.epochs=True: expected a whole number"),
        ("teacher: {recipe: {epochs: }}", "teacher.recipe.epochs=None: expected a whole number"),
        ("teacher: {recipe: {lr: fast}}", "teacher.recipe.lr='fast': expected a number"),
        ("teacher: {recipe: {lr: true}}", "teacher.recipe.lr=True: expected a number"),
        ("kd: {student: {widths: [8, x, 32]}}", r"kd.student.widths\[1\]='x': expected a whole number"),
        ("kd: {student: {widths: 8}}", "kd.student.widths=8: expected a list"),
        ("teacher: {recipe: {amp: 1}}", "teacher.recipe.amp=1: expected true or false"),
        ("teacher: {network: {name: 3}}", "teacher.network.name=3: expected a text"),
        ("frontier: {grown: {networks: [6]}}", r"frontier.grown.networks\[0\]=6: expected a text"),
        ("latency: {batch: many}", r"latency.batch: found 'many' \(str\), expected int"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_the_right_type(profile, text, found):
    with pytest.raises(parameters.ParameterError, match=found):
        check.check_values(profile(text))


# --- roots and chapters -----------------------------------------------------------------------------------------


def test_a_root_replaces_dictionaries_of_the_teacher_and_leaves_chapters_out(profile):
    text = "teacher: {network: {depth: 7, growth: 5}, recipe: {epochs: 3}}\nroots: {wide: {network: {growth: 24}}}"
    own = {"network": {"depth": 7, "growth": 5}, "recipe": {"epochs": 3}}
    assert profile(text)["teacher"] == own
    sections = profile(text, root="wide")
    assert sections["teacher"] == {"network": {"growth": 24}, "recipe": {"epochs": 3}}  # whole, with its depth
    assert check.records_of("teacher", sections)["network"].depth == 40
    assert profile(text)["study"]["lessons"] and not sections["study"]["lessons"]
    assert (parameters.run_name("mine"), parameters.run_name("mine", "wide")) == ("mine", "mine-wide")


def test_a_profile_may_have_some_of_the_chapters(tmp_path, monkeypatch, profile):
    def load(study):
        (tmp_path / "some.yaml").write_text(f"study: {{dataset: digits, {study}}}")
        return parameters.load("some")["study"]

    assert load("seeds: [0]")["chapters"] == list(chapters.notebooks())
    assert load("chapters: [kd, frontier]")["chapters"] == ["kd", "frontier"] and load("chapters: [kd]")["lessons"]
    assert not load("lessons: false, chapters: [kd]")["chapters"] and not load("chapters: []")["lessons"]
    with pytest.raises(parameters.ParameterError, match="'frontir' is unknown; did you mean 'frontier'"):
        load("chapters: [frontir]")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("roots: {wide: {network: {growth: 24}}}", {"root": "wise"}, "root 'wise': unknown; did you mean 'wide'"),
        ("", {"root": "moo"}, "root 'moo': unknown"),
        ("roots: {wide: {netwrk: {growth: 24}}}", {}, "roots: wide: 'netwrk' is unknown; did you mean 'network'"),
        ("roots: {wide: {network: 24}}", {}, r"roots: wide.network: found 24 \(int\), expected dict"),
        ("roots: {wide: {study: {seed: 3}}}", {}, "roots: wide.study: the engine sets it"),
        ("roots: {Wi-de: {network: {growth: 3}}}", {}, "Wi-de: expected a name"),
        ("roots: {wide: 3}", {}, "wide: expected a name and key: value pairs, found 3"),
        ("roots: [wide]", {}, "roots: expected a name and its parameters"),
    ],
)
def test_a_root_that_cannot_be_is_named(profile, text, options, message):
    with pytest.raises(parameters.ParameterError, match=message):
        profile(text, **options)


@pytest.mark.parametrize("root", ["", "wide"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("network: {grwth: 24}", "teacher.network.grwth: unknown; did you mean 'growth'"),
        ("network: {growth: x}", "teacher.network.growth='x': expected a whole number"),
        ("penalty: {name: l1, tau: 7}", "teacher.penalty.tau=7: expected at most 1"),
        ("penalty: {name: l1}", "teacher.penalty: label_smoothing=0.1: expected 0 beside a penalty"),
    ],
)
def test_the_settings_of_every_root_are_checked_whichever_is_run(refused, values, message, root):
    text = f"teacher: {{recipe: {{label_smoothing: 0.1}}}}\nroots: {{wide: {{{values}}}}}"
    said = refused(text, root=root)
    assert message in said and (root or said.startswith("roots: wide: "))


# --- what is set where ------------------------------------------------------------------------------------------


def test_an_exponent_is_a_number(profile):
    assert profile("teacher: {recipe: {lr: 1e-3, ema: 1e-07, weight_decay: 5}}")["teacher"]["recipe"] == {
        "lr": 0.001,
        "ema": 1e-7,
        "weight_decay": 5,
    }


@pytest.mark.parametrize("text", ["teacher: {recipe: {epochs: 3, epochs: 4}}", "teacher: {epochs: 3, epochs: 4}"])
def test_a_key_given_twice_is_an_error(profile, text):
    with pytest.raises(parameters.ParameterError, match=r"mine\.yaml: the key 'epochs' is given twice"):
        profile(text)


@pytest.mark.parametrize("key", ["study", "out", "parent", "reuse", "published", "run", "seeds", "stages", "profile"])
def test_what_the_engine_sets_cannot_be_set(profile, key):
    with pytest.raises(parameters.ParameterError, match=rf"kd.{key}: the engine sets it"):
        profile(f"kd: {{{key}: 1}}")


@pytest.mark.parametrize("key", [key for key, chapter in chapters.declared().items() if chapter.reads])
def test_nor_can_the_nodes_that_a_chapter_reads(profile, key):
    for parameter in chapters.declared()[key].reads:
        with pytest.raises(parameters.ParameterError, match=rf"{key}.{parameter}: the engine sets it"):
            profile(f"{key}: {{{parameter}: runs/other}}")
    assert profile("kd: {student: {hidden: [9, 9]}}")["kd"]["student"]  # there no node, but a shape


@pytest.mark.parametrize("key", ["seed", "threads", "device", "dataset"])
def test_what_all_chapters_share_is_said_once_in_the_study(profile, key):
    with pytest.raises(parameters.ParameterError, match=rf"kd: '{key}' is unknown"):
        profile(f"kd: {{{key}: 1}}")


def test_seeds_and_stages_can_be_chosen_and_keep_their_order(profile):
    found = profile("", seeds="4, 2", chosen="int8 kd")["study"]
    assert found["seeds"] == [4, 2] and found["stages"] == ["kd", "int8"]
    assert profile("", chosen="none")["study"]["stages"] == []


def test_other_seeds_take_no_chapter_in_the_place_of_the_first_ones(profile):
    own = profile("", study="dataset: digits, seeds: [1, 2]")["study"]["chapters"]
    assert own and profile("", study="dataset: digits, seeds: [1, 2]", seeds="1 5")["study"]["chapters"] == own
    assert profile("", study="dataset: digits, seeds: [1, 2]", seeds="2")["study"]["chapters"] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chosen": "kd pruen"}, "stage 'pruen': unknown"),
        ({"seeds": "0 x"}, "seeds '0 x': expected whole numbers"),
        ({"seeds": "1 1"}, "expected different whole numbers"),
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
        whole = parameters.complete("teacher", sections)
        assert [whole[name] for name in chapters.declared()["teacher"].records] == [{}] * 4
        assert check.records_of("teacher", sections)["recipe"] == Recipe()
    sections = profile("teacher: {recipe: {epochs: 7}}\nkd: {student: {hidden: [9, 9]}}")
    assert parameters.defaults_of(chapters.notebooks()["teacher"])["network"]["depth"] == 16
    assert parameters.complete("teacher", sections)["recipe"] == {"epochs": 7}
    assert parameters.of_node("teacher", sections)["network"] == {}
    found = check.records_of("teacher", sections)
    assert found["recipe"] == Recipe(epochs=7) and found["network"].depth == 40
    assert check.records_of("kd", sections)["student"].widths == [32, 64, 128]


def test_the_settings_of_nodes_are_those_that_their_cells_use_and_no_chapters(profile):
    sections = profile("teacher: {recipe: {epochs: 7}, choosing: {seeds: 2}}", chosen="kd")
    found = check.settings_of_nodes(sections)
    assert list(found) == ["study", "teacher", "kd"] and found["study"] == {"dataset": "digits"}
    assert list(found["teacher"]) == ["network", "recipe", "penalty"]
    assert found["teacher"]["recipe"] == dataclasses.asdict(Recipe(epochs=7))  # its defaults, too
    assert set(found["kd"]) == {"distillation", "student", "recipe"}
    for stage in (chapters.root(), *chapters.techniques()):
        notebook = chapters.notebooks()[stage]
        assert set(parameters.of_node(stage, sections)) <= code.names(notebook, lesson=False)


CELL = """
from studylib.recipe import Recipe
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
    own = parameters.defaults_of(chapters.notebooks()[stage])
    text = yaml.safe_dump({stage: {name: own[name] for name in chapters.declared()[stage].records}})
    check.check_values(profile(text, f"dataset: digits, chapters: [{stage}]"))
    settings.read(settings.Study, own["study"], "study")


def test_the_defaults_of_records_are_checked_like_a_profile(profile, monkeypatch):
    check.check_values(profile(""))
    monkeypatch.setattr(Recipe.__init__, "__defaults__", (0, *Recipe.__init__.__defaults__[1:]))
    with pytest.raises(parameters.ParameterError, match=r"teacher\.recipe\.epochs=0: expected at least 1"):
        check.check_values(profile(""))


# --- values out of range ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teacher: {network: {depth: 11}}", r"teacher.network.depth=11: expected 3·n \+ 4"),
        ("teacher: {network: {growth: 0}}", "teacher.network.growth=0: expected at least 1"),
        ("teacher: {network: {depth: 4099}}", "teacher.network.depth=4099: expected at most 400"),
        ("teacher: {network: {depth: 9, name: densenet 6}}", r"teacher.network.depth=9: expected 3·n \+ 4"),
        (
            "teacher: {network: {name: vgg -1}}",
            "teacher.network.name='vgg -1': expected one of convnet, densenet, vgg, whitened",
        ),
        ("teacher: {network: {name: figures/models/absent.slnc}}", "teacher.network: .*absent.slnc'.*published file"),
        (
            "teacher: {network: {name: figures/models/digits-densenet16-svd-8bit.slnc}}",
            "teacher.network: .*expected a network not factorized",
        ),
        ("teacher: {recipe: {lr: -1.0}}", "teacher.recipe.lr=-1.0: expected above 0"),
        ("teacher: {recipe: {epochs: 0}}", "teacher.recipe.epochs=0: expected at least 1"),
        ("teacher: {recipe: {batch_size: 1}}", "teacher.recipe.batch_size=1: expected at least 2"),
        ("teacher: {recipe: {optimizer: sdg}}", "teacher.recipe.optimizer='sdg': expected one of 'adam', 'adamw'"),
        ("teacher: {recipe: {schedule: cosin}}", "teacher.recipe.schedule='cosin': expected one of 'cosine'"),
        ("teacher: {recipe: {views: 2, augmentation: none}}", "teacher.recipe.views=2: expected 0 without augment"),
        ("teacher: {penalty: {name: l2}}", "teacher.penalty.name='l2': expected one of .*'l1', 'group_lasso' or"),
        ("teacher: {penalty: {name: l1, aggregator: PDC}}", "teacher.penalty.aggregator 'PDC': expected one of"),
        (
            "teacher: {penalty: {name: l1}, recipe: {label_smoothing: 0.1}}",
            "teacher.penalty: label_smoothing=0.1: expected 0 beside a penalty",
        ),
        ("teacher: {choosing: {seeds: 0}}", "teacher.choosing.seeds=0: expected at least 1"),
        ("kd: {distillation: {alpha: 7}}", "kd.distillation.alpha=7: expected at most 1"),
        ("kd: {distillation: {temperature: 0.0}}", "kd.distillation.temperature=0.0: expected at least 0.001"),
        ("kd: {student: {widths: [8, 16]}}", "kd.student.widths=.*: expected at least 3 of them"),
        ("kd: {student: {hidden: [0, 8]}}", r"kd.student.hidden\[0\]=0: expected at least 1"),
        ("kd: {recipe: {views: -1}}", "kd.recipe.views=-1: expected at least 0"),
        ("kd: {recipe: {epochs: 0}}", "kd.recipe.epochs=0: expected at least 1"),
        ("kd: {pairs: {temperatures: [1.0, 0.0]}}", r"kd.pairs.temperatures\[1\]=0.0: expected at least 0.001"),
        ("kd: {pairs: {alphas: []}}", r"kd.pairs.alphas=\[\]: expected at least 1 of them"),
        ("kd: {pairs: {temperatures: [1.0, 1.0]}}", r"kd.pairs.temperatures=\[1.0, 1.0\]: expected different"),
        ("imp: {recipe: {lr: .nan}}", "imp.recipe.lr=nan: expected a finite number"),
        ("imp: {pruning: {fraction: 20}}", "imp.pruning.fraction=20: expected below 1"),
        ("imp: {pruning: {rounds: 0}}", "imp.pruning.rounds=0: expected at least 1"),
        ("imp: {five_ways: {sparsities: [0.9, 0.5]}}", "imp.five_ways.sparsities="),
        ("imp: {five_ways: {sparsities: [1.0]}}", r"imp.five_ways.sparsities\[0\]=1.0: expected below 1"),
        ("imp: {five_ways: {epochs: 0}}", "imp.five_ways.epochs=0: expected at least 1"),
        ("svd: {svd: {delta: -1}}", "svd.svd.delta=-1: expected at least 0"),
        ("svd: {ranks: {deltas: [-1]}}", r"svd.ranks.deltas\[0\]=-1: expected at least 0"),
        ("svd: {tuning: {batch_size: 1}}", "svd.tuning.batch_size=1: expected at least 2"),
        ("svd: {tuning: {lr: 0.0}}", "svd.tuning.lr=0.0: expected above 0"),
        ("svd: {tuning: {epochs: 0}}", "svd.tuning.epochs=0: expected at least 1"),
        ("int8: {int8: {calibration_images: 601}}", "int8.int8: calibration_images=601: expected 1 to 600"),
        ("int8: {few_bits: {bits: [4, 3]}}", r"int8.few_bits.bits=\[4, 3\]: expected ascending"),
        ("int8: {few_bits: {bits: [1, 4]}}", r"int8.few_bits.bits\[0\]=1: expected at least 2"),
        ("int8: {few_bits: {bits: [4, 8]}}", r"int8.few_bits.bits\[1\]=8: expected at most 7"),
        ("int8: {tuning: {lr: 0.0}}", "int8.tuning.lr=0.0: expected above 0"),
        ("int8: {latency: {batch: 0}}", "int8.latency.batch=0: expected at least 1"),
        ("latency: {batch: 0}", "latency.batch=0: expected 1 to"),
        ("sweep: {recipe: {epochs: 0}}", "sweep.recipe.epochs=0: expected at least 1"),
        ("sweep: {recipe: {batch_size: 0}}", "sweep.recipe.batch_size=0: expected at least 2"),
        ("sweep: {controls: {growths: [0]}}", r"sweep.controls.growths\[0\]=0: expected at least 1"),
        ("sweep: {controls: {growths: []}}", r"sweep.controls.growths=\[\]: expected at least 1 of them"),
        ("sweep: {controls: {growths: [2, 2]}}", r"sweep.controls.growths=\[2, 2\]: expected different"),
        ("sweep: {controls: {calibration_images: 601}}", "sweep.controls: calibration_images=601"),
        ("moo: {comparison: {repetitions: 0}}", "moo.comparison.repetitions=0: expected at least 1"),
        ("moo: {comparison: {sparsities: [0.9, 0.5]}}", "moo.comparison.sparsities="),
        ("moo: {comparison: {sparsities: [0.0]}}", r"moo.comparison.sparsities=\[0.0\]: expected one above 0"),
        ("moo: {comparison: {taus: [0.1]}}", r"moo.comparison.sums=.*taus=\[0.1\].*: expected equally many values"),
        (
            "moo: {comparison: {sums: [1.0], shrinkages: [1.0], taus: [0.1], rates: [0.1, 0.2]}}",
            "moo.comparison.*: expected equally many values",
        ),
        ("moo: {comparison: {taus: [-0.1, 0.1]}}", r"moo.comparison.taus\[0\]=-0.1: expected above 0"),
        ("moo: {comparison: {sums: [0.1, 0.1]}}", r"moo.comparison.sums=\[0.1, 0.1\]: expected different"),
        ("moo: {tuning: {lr: 0.0}}", "moo.tuning.lr=0.0: expected above 0"),
        ("moo: {tuning: {epochs: 0}}", "moo.tuning.epochs=0: expected at least 1"),
        ("moo: {network: {widths: [8]}}", "moo.network.widths=.*expected at least 3 of them"),
        ("moo: {network: {widths: [0, 8, 8]}}", r"moo.network.widths\[0\]=0: expected at least 1"),
        ("moo: {recipe: {lr: .inf}}", "moo.recipe.lr=inf: expected a finite number"),
        ("moo: {recipe: {epochs: 0}}", "moo.*recipe.epochs=0: expected at least 1"),
        ("frontier: {shrinking: {bits: [4, 9]}}", r"frontier.shrinking.bits\[1\]=9: expected at most 8"),
        ("frontier: {shrinking: {bits: [4, 4]}}", r"frontier.shrinking.bits=\[4, 4\]: expected different"),
        ("frontier: {shrinking: {sparsities: [0.9, 0.5]}}", "frontier.shrinking.sparsities="),
        ("frontier: {shrinking: {lr: 0.0}}", "frontier.shrinking.lr=0.0: expected above 0"),
        ("frontier: {shrinking: {epochs: 0}}", "frontier.shrinking.epochs=0: expected at least 1"),
        ("frontier: {shrinking: {coding: -1.0}}", "frontier.shrinking.coding=-1.0: expected at least 0"),
        (
            "frontier: {grown: {networks: [densenet 0]}}",
            "frontier.grown.networks: network 'densenet 0': expected one of",
        ),
        (
            "frontier: {grown: {networks: [resnet 8]}}",
            "frontier.grown.networks: network 'resnet 8': expected one of convnet, densenet",
        ),
        ("frontier: {grown: {networks: [convnet]}}", "frontier.grown.networks: network 'convnet': expected one of"),
        ("frontier: {grown: {networks: [vgg 4, vgg 4]}}", "frontier.grown.networks=.*: expected different"),
        ("frontier: {supervision: {temperature: 0.0}}", "frontier.supervision.temperature=0.0: expected at least"),
        (
            "frontier: {supervision: {teachers: [figures/models/densenet22-z80-4bit.slnc]}}",
            "frontier.supervision: teachers: .*of cifar10, seed 0: expected digits, seed 0",
        ),
    ],
)
def test_a_value_out_of_range_is_named_before_anything_trains(refused, text, message):
    assert re.search(message, said := refused(text)), said


def test_what_is_not_run_is_held_against_no_data(profile):
    """Neither calibration images nor files that are not there matter to a chapter that is left out."""
    text = "int8: {int8: {calibration_images: 601}}\nfrontier: {supervision: {teachers: [absent.slnc]}}"
    check.check_values(profile(text, "dataset: digits, chapters: [teacher]", chosen="kd"))


def test_a_published_file_serves_its_own_seed_alone(profile, refused):
    text = "teacher: {network: {name: figures/models/digits-densenet16-z89.3-8bit.slnc}}"
    check.check_values(profile(text, seeds="0"))
    assert re.search(r"^teacher.network: .*seed 0: expected digits, seed 1", refused(text, seeds="0 1"))
    text = "frontier: {supervision: {teachers: [figures/models/digits-densenet16-z89.3-8bit.slnc]}}"
    check.check_values(profile(text, seeds="0 1"))  # chapter 8 is of the first
    said = refused(text, study="dataset: digits, seeds: [1, 0]")
    assert re.search(r"^frontier.supervision: teachers: .*seed 0: expected digits, seed 1", said)


@pytest.mark.parametrize(("study_section", "message"), [("dataset: digit", "'digit'"), ("device: gpu", "'gpu'")])
def test_a_wrong_data_set_or_device_is_named_before_anything_trains(profile, study_section, message):
    sections = profile("")
    sections["study"] |= dict([study_section.split(": ")])
    with pytest.raises(parameters.ParameterError, match=message):
        check.check_values(sections)


def test_a_notebook_that_lacks_what_the_engine_hands_it_is_named(profile, monkeypatch):
    real = parameters.types_of
    for lacks in ("study", "published", "out", "parent", "reuse", "pruned"):

        def without(path, lacks=lacks):
            return {k: v for k, v in real(path).items() if k != lacks or path.stem != "04_svd"}

        monkeypatch.setattr(parameters, "types_of", without)
        with pytest.raises(parameters.ParameterError, match=rf"04_svd.ipynb: its parameters cell must have '{lacks}'"):
            profile("")
    monkeypatch.setattr(parameters, "types_of", lambda path: real(path) | {"own": "dict"})
    with pytest.raises(parameters.ParameterError, match="own: expected a dictionary there and a record of it in"):
        profile("")


def test_a_record_that_a_notebook_has_no_dictionary_for_is_named(profile, monkeypatch):
    real = parameters.types_of
    monkeypatch.setattr(parameters, "types_of", lambda p: {k: v for k, v in real(p).items() if k != "ranks"})
    with pytest.raises(
        parameters.ParameterError, match=r"04_svd.ipynb: ranks: expected a dictionary there and a record"
    ):
        profile("")


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(parameters.ParameterError, match="did you mean 'digits'"):
        parameters.load("digit")
    for name in ("../secret", "chapters"):
        with pytest.raises(parameters.ParameterError, match="expected the name of a file"):
            parameters.load(name)


def test_a_bad_profile_stops_the_run_before_anything_trains(tmp_path):
    project = copy_project(tmp_path / "copy")
    (project / "papermill_params" / "bad.yaml").write_text("study: {dataset: digits}\nimp: {pruning: {ronds: 3}}\n")
    result = study(project, "--profile", "bad")
    assert result.returncode != 0
    assert "imp.pruning.ronds: unknown; did you mean 'rounds'" in result.stdout
    assert not list((project / "runs").rglob("seed*"))


# --- YAML -------------------------------------------------------------------------------------------------------


def test_merge_keys_take_over_what_they_name(profile):
    text = "teacher: {recipe: &t {epochs: 3, lr: 1e-2}}\nimp: {recipe: {<<: *t, views: 4}}\n"
    sections = profile(text + "kd: {recipe: {<<: *t, epochs: 5}}")
    assert sections["imp"]["recipe"] == {"epochs": 3, "lr": 0.01, "views": 4}
    assert sections["kd"]["recipe"] == {"epochs": 5, "lr": 0.01}
    assert sections["teacher"]["recipe"] == {"epochs": 3, "lr": 0.01}
    text = "teacher: {recipe: &a {epochs: 3}}\nimp: {recipe: &b {<<: *a, epochs: 4, lr: 0.5}}\n"
    both = profile(text + "kd: {recipe: {<<: [*a, *b]}}")
    assert both["kd"]["recipe"] == {"epochs": 3, "lr": 0.5} and both["imp"]["recipe"]["epochs"] == 4
    whole = profile("teacher: &t {recipe: {epochs: 3}}\nimp: {<<: *t, pruning: {rounds: 4}}")  # of sections alike
    assert whole["imp"] == {"recipe": {"epochs": 3}, "pruning": {"rounds": 4}}


def test_keys_beside_a_merge_are_still_given_once(profile):
    for text in (
        "teacher: {recipe: &t {lr: 1.0}}\nimp: {recipe: {<<: *t, lr: 1.0, lr: 2.0}}",
        "teacher: {recipe: &t {}}\nimp: {recipe: {<<: *t, <<: *t}}",
    ):
        with pytest.raises(parameters.ParameterError, match=r"mine\.yaml: the key '(lr|<<)' is given twice"):
            profile(text)


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        *(("010", "8"), ("1:30", "90"), ("-1:30", "-90"), ("0x10", "16"), ("0b11", "3"), ("1:30.5", "90.5")),
        *(("1__0", "10"), ("yes", "True"), ("No", "False"), ("on", "True"), ("OFF", "False")),
    ],
)
def test_what_yaml_1_1_takes_for_another_number_is_refused(profile, written, taken):
    for text in (
        f"teacher: {{recipe: {{epochs: {written}}}}}",
        f"kd: {{student: {{widths: [8, {written}, 32]}}}}",
        f"teacher: {{recipe: {{{written}: 3}}}}",
        f"teacher: {{{written}: 3}}",
    ):
        with pytest.raises(parameters.ParameterError, match=rf"mine\.yaml, line 2: {written}: expected .*{taken} "):
            profile(text)


@pytest.mark.parametrize("kind", ["plain", "quoted"])
def test_what_is_written_in_digits_or_quotes_is_what_it_says(profile, kind):
    if kind == "quoted":
        assert profile("teacher: {network: {name: '010'}}")["teacher"] == {"network": {"name": "010"}}
        return
    for text, value in {"1_000": 1000, "0": 0, "+3": 3}.items():
        assert profile(f"teacher: {{recipe: {{epochs: {text}}}}}")["teacher"]["recipe"]["epochs"] == value
    for text, value in {"1.": 1.0, "0.5": 0.5, "-1.5e-3": -0.0015, "1e3": 1000.0, "0": 0}.items():
        assert profile(f"teacher: {{recipe: {{lr: {text}}}}}")["teacher"]["recipe"]["lr"] == value


def test_a_profile_that_is_not_utf_8_is_named(profile, tmp_path):
    (tmp_path / "latin.yaml").write_bytes("# gr\xf6\xdfer".encode("latin-1"))
    with pytest.raises(parameters.ParameterError, match=r"latin\.yaml: not valid YAML"):
        parameters.load("latin")


@pytest.mark.parametrize(
    "value",
    [
        "!!int abc",
        "!!float abc",
        "!!bool maybe",
        "!!timestamp x",
        "9" * 5000,
        "[" * 3000,
        '!!int "0x10"',
        '!!float "1:30"',
        "1_0.5",
        "1_0e3",
    ],
)
def test_whatever_a_value_is_not_is_said_in_a_sentence_that_names_the_file(profile, value):
    with pytest.raises(parameters.ParameterError, match=r"mine\.yaml"):
        profile(f"teacher: {{recipe: {{lr: {value}}}}}")


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


NUMBERS = {
    (stage, parameter, name): about
    for stage, chapter in chapters.declared().items()
    for parameter in chapter.records
    for name, about in numbers_of(chapter.record(parameter)).items()
}
HELD_BESIDE = {"min_lr": "at most lr", "calibration_images": "no more than there are"}  # in place of a bound above
HUGE = {"int": ["1000000000", str(2**64), "-1000000000"], "float": ["1e30", ".inf", "-.inf", ".nan", "-1e30"]}


def test_the_numbers_are_all_of_them():
    assert len(NUMBERS) > 100
    found = {name for _, _, name in NUMBERS}
    needed = {key for stage in (*SCALE.values(), *SHOWN.values()) for keys in stage.values() for key in keys}
    assert needed - found == {"networks", "compiled"}  # texts, and yes or no


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
        sections, started = profile(f"{stage}: {{{parameter}: {{{name}: {given}}}}}"), time.process_time()
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
    assert f"{text}=" in said and "expected" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kd: {student: {hidden: [5000, 4]}}", r"kd.student.hidden\[0\]=5000: expected at most 4096"),
        ("moo: {network: {hidden: [5000, 4]}}", r"moo.network.hidden\[0\]=5000: expected at most 4096"),
        (
            "kd: {student: {widths: [8, 4096, 4096]}}",
            r"kd.student: widths=\[8, 4096, 4096\].*numbers, expected at most 67108864",
        ),
        ("moo: {network: {widths: [8, 4096, 4096]}}", "moo.network: widths=.*numbers, expected at most 67108864"),
        (
            "teacher: {network: {name: vgg 300}}",
            "teacher.network: name='vgg 300': .*numbers, expected at most 67108864",
        ),
        (
            "teacher: {network: {name: vgg 99999}}",
            "teacher.network: name='vgg 99999': 99999 in it, expected at most 4096",
        ),
        (
            "frontier: {grown: {networks: [vgg 300]}}",
            "frontier.grown: networks='vgg 300': .*numbers, expected at most 67108864",
        ),
        (
            "frontier: {grown: {networks: [convnet 1025]}}",
            "frontier.grown: networks='convnet 1025': 4100 in it, expected at most 4096",
        ),
        (
            "teacher: {network: {depth: 400}}",
            "teacher.network: depth=400, growth=12: 4[0-9]* channels or features in a layer",
        ),
        ("sweep: {controls: {growths: [4000]}}", "sweep.controls: growths=4000 .*expected at most 4096"),
        ("kd: {distillation: {temperature: .inf}}", "kd.distillation.temperature=inf: expected a finite number"),
        ("kd: {pairs: {temperatures: [1.0, .inf]}}", r"kd.pairs.temperatures\[1\]=inf: expected a finite number"),
        ("frontier: {supervision: {temperature: .inf}}", "frontier.supervision.temperature=inf: expected a finite"),
        ("imp: {recipe: {weight_decay: .inf}}", "imp.recipe.weight_decay=inf: expected a finite number"),
        ("imp: {recipe: {min_lr: 0.1}}", "imp.recipe.min_lr=0.1: expected between 0 and lr=0.001"),
        (
            "moo: {recipe: {min_lr: 1e-2, lr: 2e-2}, tuning: {lr: 1e-3}}",
            "moo.comparison: tuning.lr=0.001: expected at least recipe.min_lr=0.01",
        ),
        ("int8: {tuning: {compile: true}}", "int8.tuning.compile=True: expected False"),
        ("int8: {tuning: {label_smoothing: 0.1}}", "int8.tuning.label_smoothing=0.1: expected 0"),
    ],
)
def test_what_would_be_found_at_the_end_is_found_before_anything_trains(refused, text, message):
    assert re.search(message, said := refused(text)), said


def test_a_rate_below_the_least_is_lowered_where_a_chapter_derives_it(profile):
    """Chapter 8 trains rounded weights at a tenth of a rate, chapter 3 five ways for other epochs."""
    text = "frontier: {shrinking: {lr: 5e-7}}\nmoo: {recipe: {min_lr: 1e-3, lr: 1e-3}, tuning: {lr: 1e-3}}"
    check.check_values(profile(text))


@pytest.mark.parametrize("seeds", ["4294967296", "0 18446744073709551616"])
def test_a_seed_that_no_split_can_be_drawn_by_is_named(profile, refused, seeds):
    message = r"study.seeds=\[.*\]: expected different whole numbers from 0 to 4294967295"
    with pytest.raises(parameters.ParameterError, match=message):
        profile("", seeds=seeds)
    with pytest.raises(parameters.ParameterError, match=message):
        profile("", study=f"dataset: digits, seeds: [{seeds.replace(' ', ', ')}]")
    last, one = "dataset: digits, seeds: [4294967295]", {"moo": "comparison", "kd": "pairs", "svd": "ranks"}
    for stage, parameter in one.items():
        key = "repetitions" if stage == "moo" else "seeds"
        alone = "\n".join(
            f"{s}: {{{p}: {{{'repetitions' if s == 'moo' else 'seeds'}: {2 if s == stage else 1}}}}}"
            for s, p in one.items()
        )
        assert re.search(rf"^{stage}.{parameter}(\.|: ){key}=2: .*from 4294967295 on", refused(alone, last))
    check.check_values(profile(alone.replace("2}", "1}"), last))


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
    with pytest.raises(parameters.ParameterError, match="role 'rot'"):
        profile("")
