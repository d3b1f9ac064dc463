import subprocess
import sys
import time

import pytest
from projects import copy_project, environment, study

from engine import check, parameters

PROFILES = sorted(path.stem for path in parameters.FOLDER.glob("*.yaml") if path != parameters.STAGES_FILE)
SCALE = {  # what decides how large and how long: no profile may inherit it from a notebook's quick default
    "teacher": {"depth", "epochs", "lr", "batch_size"},
    "kd": {"epochs", "lr", "batch_size", "widths", "hidden"},
    "imp": {"rounds", "epochs", "lr", "batch_size", "tolerance"},
    "svd": {"delta"},
    "int8": {"calibration_images"},
    "frontier": {
        "networks",
        "epochs",
        "lr",
        "batch_size",
        "sparsities",
        "bits",
        "tuning_epochs",
        "rounding_epochs",
    },
}
COMPARED = {"repetitions", "widths", "hidden", "epochs", "lr", "batch_size", "sparsities", "tuning_epochs", "tuning_lr"}


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """Writes a profile and loads it."""
    for path in parameters.FOLDER.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(parameters, "FOLDER", tmp_path)
    monkeypatch.setattr(parameters, "STAGES_FILE", tmp_path / "stages.yaml")

    def load(text, study="dataset: digits", **options):
        (tmp_path / "mine.yaml").write_text(f"study: {{{study}}}\n" + text)
        return parameters.load("mine", **options)

    return load


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_valid_and_states_its_scale(name):
    sections = parameters.load(name)
    chapters = sections["study"]["chapters"]
    for stage, keys in SCALE.items():
        if stage in ("teacher", "frontier") or stage in sections["study"]["stages"]:
            needed = stage != "frontier" or stage in chapters
            keys = keys - {"depth"} | {"network"} if "network" in sections[stage] else keys
            assert keys <= set(sections[stage]) or not needed, f"{name}: {stage}"
    if "moo" in chapters:
        assert COMPARED | {"sums", "shrinkages", "taus", "rates"} <= set(sections["moo"])
        assert sections["moo"]["repetitions"] >= 3
    if sections["study"]["stages"] == parameters.load("digits")["study"]["stages"]:  # a whole tree
        assert parameters.load(name, root="moo")["teacher"]["penalty"] == "l1"


def test_the_paper_profile_is_the_paper():
    sections = parameters.load("paper")
    for stage in ("teacher", "kd", "imp"):
        assert (sections[stage]["lr"], sections[stage]["batch_size"]) == (1e-3, 128)  # min_lr 1e-7: the recipe's own
    assert (sections["teacher"]["depth"], sections["teacher"]["epochs"]) == (40, 100)
    assert (sections["kd"]["epochs"], sections["kd"]["temperature"], sections["kd"]["alpha"]) == (500, 5.0, 0.7)
    assert (sections["imp"]["epochs"], sections["imp"]["fraction"], sections["svd"]["delta"]) == (100, 0.2, 1)


def test_a_misspelt_key_names_itself_and_the_nearest(profile):
    with pytest.raises(parameters.ParameterError, match=r"teacher.*'epoch' is unknown; did you mean 'epochs'"):
        profile("teacher: {epoch: 3}")


def test_a_misspelt_section_names_itself_and_the_nearest(profile):
    with pytest.raises(parameters.ParameterError, match=r"'techer' is unknown; did you mean 'teacher'"):
        profile("techer: {epochs: 3}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("teacher: {epochs: 3.5}", r"teacher.epochs: found 3.5 \(float\), expected int"),
        ("teacher: {epochs: true}", r"teacher.epochs: found True \(bool\), expected int"),
        ("teacher: {lr: fast}", r"teacher.lr: found 'fast' \(str\), expected float"),
        ("kd: {widths: [8, x, 32]}", r"kd.widths: found .* expected list\[int\]"),
        ("teacher: {amp: 1}", r"teacher.amp: found 1 \(int\), expected bool"),
        ("latency: {batch: many}", r"latency.batch: found 'many' \(str\), expected int"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_the_right_type(profile, text, found):
    with pytest.raises(parameters.ParameterError, match=found):
        profile(text)


def test_a_root_changes_the_teacher_and_leaves_chapters_out(profile):
    text = "teacher: {depth: 7, epochs: 3}\nroots: {wide: {growth: 24, epochs: 5}}"
    assert profile(text)["teacher"] == {"depth": 7, "epochs": 3}
    sections = profile(text, root="wide")
    assert sections["teacher"] == {"depth": 7, "epochs": 5, "growth": 24}
    assert profile(text)["study"]["lessons"] and not sections["study"]["lessons"]
    assert (parameters.run_name("mine"), parameters.run_name("mine", "wide")) == ("mine", "mine-wide")


def test_a_profile_may_have_some_of_the_chapters(tmp_path, monkeypatch, profile):
    def load(study):
        (tmp_path / "some.yaml").write_text(f"study: {{dataset: digits, {study}}}")
        return parameters.load("some")["study"]

    assert load("seeds: [0]")["chapters"] == list(parameters.notebooks())
    assert load("chapters: [kd, frontier]")["chapters"] == ["kd", "frontier"] and load("chapters: [kd]")["lessons"]
    assert not load("lessons: false, chapters: [kd]")["chapters"] and not load("chapters: []")["lessons"]
    with pytest.raises(parameters.ParameterError, match="'frontir' is unknown; did you mean 'frontier'"):
        load("chapters: [frontir]")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("roots: {wide: {growth: 24}}", {"root": "wise"}, "root 'wise': unknown; did you mean 'wide'"),
        ("", {"root": "moo"}, "root 'moo': unknown"),
        ("roots: {wide: {grwth: 24}}", {}, "roots: wide: 'grwth' is unknown; did you mean 'growth'"),
        ("roots: {wide: {growth: x}}", {}, "roots: wide.growth: found 'x'"),
        ("roots: {wide: {seed: 3}}", {}, "roots: wide.seed: the engine sets it"),
        ("roots: {Wi-de: {growth: 3}}", {}, "Wi-de: expected a name"),
        ("roots: [wide]", {}, "roots: expected a name and its parameters"),
    ],
)
def test_a_root_that_cannot_be_is_named(profile, text, options, message):
    with pytest.raises(parameters.ParameterError, match=message):
        profile(text, **options)


def test_an_exponent_is_a_number(profile):
    assert profile("teacher: {lr: 1e-3, ema: 1e-07, weight_decay: 5}")["teacher"] == {
        "lr": 0.001,
        "ema": 1e-7,
        "weight_decay": 5,
    }


def test_a_key_given_twice_is_an_error(profile):
    with pytest.raises(parameters.ParameterError, match=r"mine\.yaml: the key 'epochs' is given twice"):
        profile("teacher: {epochs: 3, epochs: 4}")


@pytest.mark.parametrize("key", ["seed", "out", "parent", "made", "threads", "dataset"])
def test_what_the_engine_sets_cannot_be_set(profile, key):
    with pytest.raises(parameters.ParameterError, match=rf"kd.{key}: the engine sets it"):
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("teacher: {depth: 11}", "teacher: densenet depth=11: expected"),
        ("teacher: {lr: -1.0}", "teacher: lr=-1.0: expected above 0"),
        ("imp: {lr: .nan}", "imp: lr=nan: expected above 0"),
        ("kd: {alpha: 7}", "kd: alpha=7: expected between 0"),
        ("kd: {widths: [8, 16]}", "kd: convnet widths="),
        ("imp: {fraction: 20}", "imp: fraction=20: expected between 0 and 1"),
        ("svd: {delta: -1}", "svd: delta=-1: expected at least 0"),
        ("int8: {calibration_images: 601}", "int8.calibration_images=601: expected 1 to 600"),
        ("latency: {batch: 0}", "latency.batch=0: expected at least 1"),
        ("teacher: {lesson_seeds: 0}", "teacher.lesson_seeds=0: expected at least one"),
        ("kd: {lesson_temperatures: [1.0, 0.0]}", "kd.lesson_temperatures: temperature=0"),
        ("kd: {lesson_alphas: []}", r"kd.lesson_alphas=\[\]: expected at least one"),
        ("imp: {lesson_sparsities: [0.9, 0.5]}", "imp.lesson_sparsities: sparsities="),
        ("imp: {lesson_epochs: 0}", "imp.lesson_epochs: 0: expected at least 1"),
        ("svd: {lesson_deltas: [-1]}", "svd.lesson_deltas: delta=-1"),
        ("svd: {lesson_batch_size: 1}", "svd lesson: batch_size=1: expected at least 2"),
        ("svd: {lesson_lr: 0.0}", "svd lesson: lr=0.0: expected above 0"),
        ("sweep: {lesson_epochs: 0}", "sweep.lesson_epochs: 0: expected at least 1"),
        ("sweep: {lesson_batch_size: 0}", "sweep.lesson_batch_size=0: expected at least one"),
        ("frontier: {tuning_epochs: 0}", "frontier.tuning_epochs: 0: expected at least 1"),
        ("kd: {epochs: 0}", "kd.epochs=0: expected at least 1"),
        ("int8: {lesson_bits: [4, 3]}", r"int8.lesson_bits=\[4, 3\]: expected ascending"),
        ("int8: {lesson_bits: [1, 4]}", "int8.lesson_bits: bits=1 of"),
        ("int8: {lesson_lr: 0.0}", "int8 lesson: lr=0.0: expected above 0"),
        ("teacher: {penalty: l2}", "teacher: penalty 'l2': expected one of l1, group_lasso, nuclear_norm"),
        ("teacher: {penalty: l1, aggregator: PDC}", "teacher: aggregator 'PDC': expected one of"),
        ("moo: {repetitions: 0}", "moo.repetitions: 0: expected at least 1"),
        ("moo: {sparsities: [0.9, 0.5]}", "moo: sparsities="),
        ("moo: {tuning_lr: 0.0}", "moo.tuning: lr=0.0"),
        ("moo: {widths: [8]}", "moo: convnet widths="),
        ("moo: {widths: [0, 8, 8]}", "moo.widths=.*at least 1"),
        ("kd: {hidden: [0, 8]}", "kd.hidden=.*at least 1"),
        ("moo: {lr: .inf}", "moo: lr=inf: expected above 0 and finite"),
        ("moo: {epochs: 0}", "moo: 0 epochs"),
        ("teacher: {optimizer: sdg}", "teacher: optimizer='sdg': expected one of adam, adamw, sgd"),
        ("kd: {views: -1}", "kd: views=-1: expected at least 0"),
        ("moo: {taus: [0.1]}", "moo: taus: expected sums, shrinkages, taus and rates"),
        ("moo: {sums: [1.0], shrinkages: [1.0], taus: [0.1], rates: [0.1, 0.2]}", "moo: .* equally many"),
        ("moo: {sums: [1.0], shrinkages: [1.0], taus: [-0.1], rates: [0.1]}", "moo: .* above 0"),
        ("frontier: {bits: [4, 9]}", r"frontier: bits=\(4, 9\): expected different whole numbers of 2 to 8"),
        ("frontier: {sparsities: [0.9, 0.5]}", "frontier: sparsities="),
        ("frontier: {tuning_lr: 0.0}", "frontier.tuning: lr=0.0"),
        ("frontier: {networks: [densenet 0]}", "frontier.networks: network 'densenet 0': expected one of"),
        (
            "frontier: {networks: [resnet 8]}",
            "frontier.networks: network 'resnet 8': expected one of convnet, densenet",
        ),
        ("frontier: {coding: -1.0}", "frontier: coding=-1.0: expected from 0"),
        ("teacher: {depth: 9, network: densenet 6}", "teacher: densenet depth=9"),
        ("teacher: {network: vgg -1}", "teacher: network 'vgg -1': expected one of convnet, densenet, vgg, whitened"),
        ("teacher: {network: figures/models/absent.slnc}", "teacher: .*absent.slnc': expected a published file"),
        (
            "frontier: {teachers: [figures/models/cifar10-teacher-800-4bit.slnc]}",
            "frontier.teachers: .*of cifar10, seed 0: expected digits, seed 0",
        ),
        (
            "teacher: {network: figures/models/digits-teacher-svd-int8.slnc}",
            "teacher: .*expected a network not factorized",
        ),
        ("teacher: {epochs: 0}", "teacher.epochs=0: expected at least 1"),
        ("frontier: {networks: [convnet]}", "frontier.networks: network 'convnet': expected one of"),
        ("frontier: {temperature: 0.0}", "frontier: temperature=0.0"),
        ("sweep: {lesson_growths: [0]}", "sweep.lesson_growths: 0: expected at least 1"),
        ("sweep: {lesson_calibration_images: 601}", "sweep.lesson_calibration_images=601"),
    ],
)
def test_a_value_out_of_range_is_named_before_anything_trains(profile, text, message):
    check.check_values(profile("teacher: {depth: 7}"))
    with pytest.raises(parameters.ParameterError, match=message):
        check.check_values(profile(text))


def test_a_published_file_serves_its_own_seed_alone(profile):
    text = "teacher: {network: figures/models/digits-teacher-imp-int8.slnc}"
    check.check_values(profile(text, seeds="0"))
    with pytest.raises(parameters.ParameterError, match=r"teacher: .*seed 0: expected digits, seed 1"):
        check.check_values(profile(text, seeds="0 1"))
    files = "frontier: {teachers: [figures/models/digits-teacher-imp-int8.slnc]}\nteacher: {depth: 7}"
    check.check_values(profile(files, seeds="0 1"))  # chapter 8 is of the first
    with pytest.raises(parameters.ParameterError, match=r"frontier.teachers: .*seed 0: expected digits, seed 1"):
        check.check_values(profile(files, study="dataset: digits, seeds: [1, 0]"))


@pytest.mark.parametrize(("study_section", "message"), [("dataset: digit", "'digit'"), ("device: gpu", "'gpu'")])
def test_a_wrong_data_set_or_device_is_named_before_anything_trains(profile, tmp_path, study_section, message):
    sections = profile("")
    sections["study"] |= dict([study_section.split(": ")])
    with pytest.raises(parameters.ParameterError, match=message):
        check.check_values(sections)


def test_a_notebook_that_lacks_what_the_engine_hands_it_is_named(profile, monkeypatch):
    real = parameters.types_of

    def without_device(path):
        return {k: v for k, v in real(path).items() if k != "device" or path.stem != "04_svd"}

    monkeypatch.setattr(parameters, "types_of", without_device)
    with pytest.raises(parameters.ParameterError, match=r"04_svd.ipynb: its parameters cell must have 'device'"):
        profile("")


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(parameters.ParameterError, match="did you mean 'digits'"):
        parameters.load("digit")
    with pytest.raises(parameters.ParameterError, match="expected the name of a file"):
        parameters.load("../secret")


def test_a_bad_profile_stops_the_run_before_anything_trains(tmp_path):
    project = copy_project(tmp_path / "copy")
    (project / "papermill_params" / "bad.yaml").write_text("study: {dataset: digits}\nimp: {ronds: 3}\n")
    result = study(project, "--profile", "bad")
    assert result.returncode != 0
    assert "'ronds' is unknown; did you mean 'rounds'" in result.stdout
    assert not (project / "runs").exists()


# --- YAML -------------------------------------------------------------------------------------------------------


def test_merge_keys_take_over_what_they_name(profile):
    text = "teacher: &t {epochs: 3, lr: 1e-2}\nimp: {<<: *t, rounds: 4}\nkd: {<<: *t, epochs: 5}"
    sections = profile(text)
    assert sections["imp"] == {"epochs": 3, "lr": 0.01, "rounds": 4}
    assert sections["kd"] == {"epochs": 5, "lr": 0.01} and sections["teacher"] == {"epochs": 3, "lr": 0.01}
    both = profile("teacher: &a {epochs: 3}\nimp: &b {<<: *a, epochs: 4, lr: 0.5}\nkd: {<<: [*a, *b]}")
    assert both["kd"] == {"epochs": 3, "lr": 0.5} and both["imp"]["epochs"] == 4


def test_keys_beside_a_merge_are_still_given_once(profile):
    for text in ("teacher: &t {lr: 1.0}\nimp: {<<: *t, lr: 1.0, lr: 2.0}", "teacher: &t {}\nimp: {<<: *t, <<: *t}"):
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
        f"teacher: {{epochs: {written}}}",
        f"kd: {{widths: [8, {written}, 32]}}",
        f"teacher: {{{written}: 3}}",
    ):
        with pytest.raises(parameters.ParameterError, match=rf"mine\.yaml, line 2: {written}: expected .*{taken} "):
            profile(text)


@pytest.mark.parametrize("kind", ["seeds", "quoted"])
def test_what_is_written_in_digits_or_quotes_is_what_it_says(profile, kind):
    if kind == "quoted":
        assert profile("teacher: {network: '010'}")["teacher"] == {"network": "010"}
    for text, value in {"1_000": 1000, "0": 0, "+3": 3}.items():
        assert profile(f"teacher: {{epochs: {text}}}")["teacher"]["epochs"] == value
    for text, value in {"1.": 1.0, "0.5": 0.5, "-1.5e-3": -0.0015, "1e3": 1000.0, "0": 0}.items():
        assert profile(f"teacher: {{lr: {text}}}")["teacher"]["lr"] == value


def test_a_profile_that_is_not_utf_8_is_named(profile, tmp_path):
    (tmp_path / "latin.yaml").write_bytes("# gr\xf6\xdfer".encode("latin-1"))
    with pytest.raises(parameters.ParameterError, match=r"latin\.yaml: not valid YAML"):
        parameters.load("latin")


# --- bounds -----------------------------------------------------------------------------------------------------

NUMBERS = {
    (section, name): kind
    for section, path in parameters.notebooks().items()
    for name, kind in parameters.types_of(path).items()
    if kind.rpartition("[")[2].rstrip("]") in ("int", "float")
    and name not in parameters.FROM_ENGINE | parameters.FROM_STUDY
}
NUMBERS |= {("latency", "batch"): "int", ("latency", "repeats"): "int"}
NUMBERS |= {("study", "threads"): "int", ("study", "seeds"): "list[int]"}
NUMBERS = {
    (section, name): kind  # the controls of chapter 7 are trained by the teacher's recipe
    for (section, name), kind in NUMBERS.items()
    if section != "sweep" or name.startswith("lesson_") or name == "depth"
}
HUGE = {"int": [10**9, 2**64, -(10**9)], "float": ["1e30", ".inf", "-.inf", ".nan", "-1e30"]}
EXTREMES = [(*place, value) for place, kind in NUMBERS.items() for value in HUGE[kind.rpartition("[")[2].rstrip("]")]]
EXTREMES.remove(("study", "seeds", 10**9))  # as good as any


@pytest.mark.parametrize(("section", "name", "value"), EXTREMES)
def test_every_number_has_a_bound_on_both_sides(profile, section, name, value):
    """In a second each, and without the memory that a network of this size would take."""
    given = f"{name}: [{value}]" if NUMBERS[section, name].startswith("list") else f"{name}: {value}"
    given += ", penalty: l1" if name == "tau" else ""
    if name in (settings := ("sums", "shrinkages", "taus", "rates")):  # all or none
        given += "".join(f", {other}: [0.1]" for other in settings if other != name)
    with pytest.raises(parameters.ParameterError) as caught:
        if section == "study":
            check.check_values(profile("", study=f"dataset: digits, {given}"))
        else:
            check.check_values(profile(f"{section}: {{{given}}}"))
    said = str(caught.value)
    words = name.removeprefix("lesson_").rstrip("s").split("_")  # "frontier.tuning: lr=…"
    assert section in said and all(word in said for word in words) and "expected" in said and "\n" not in said


def test_every_number_of_a_notebook_is_in_the_table_of_bounds():
    missing = {
        f"{s}.{n}" for s, n in NUMBERS if n not in check.BOUNDS and n.removeprefix("lesson_") not in check.BOUNDS
    }
    assert not missing
    assert all(least <= most for least, most in check.BOUNDS.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kd: {hidden: [5000, 4]}", "kd.hidden=5000: expected at most 4096"),
        ("moo: {hidden: [5000, 4]}", "moo.hidden=5000: expected at most 4096"),
        ("kd: {widths: [8, 4096, 4096]}", "kd.widths=.*numbers, expected at most 67108864"),
        ("teacher: {network: vgg 300}", "teacher.network='vgg 300': .*numbers, expected at most 67108864"),
        ("teacher: {network: vgg 99999}", "teacher.network='vgg 99999': 99999 in it, expected at most 4096"),
        ("frontier: {networks: [vgg 300]}", "frontier.networks='vgg 300': .*numbers, expected at most 67108864"),
        ("frontier: {networks: [convnet 1025]}", "frontier.networks='convnet 1025': 4100 in it, expected at most 4096"),
        ("teacher: {depth: 400}", "teacher.depth=400, teacher.growth=12: 4[0-9]* channels or features in a layer"),
        ("sweep: {lesson_growths: [4000]}", "sweep.lesson_growths=4000: .*expected at most 4096"),
        ("kd: {temperature: .inf}", "kd: temperature=inf: expected above 0 and finite"),
        ("kd: {lesson_temperatures: [1.0, .inf]}", "kd.lesson_temperatures=inf: expected at most"),
        ("frontier: {temperature: .inf}", "frontier.temperature=inf: expected at most"),
        ("imp: {weight_decay: .inf}", "imp: weight_decay=inf: expected at least 0, and finite"),
        ("teacher: {growth: 0}", "teacher: densenet growth=0: expected at least 1"),
        ("teacher: {depth: 4099}", "teacher.depth=4099: expected at most 400"),
        ("moo: {min_lr: 1e-2, lr: 2e-2, tuning_lr: 1e-3}", "moo.tuning: min_lr=0.01: expected between 0 and lr=0.001"),
        ("frontier: {tuning_lr: 5e-7}", "frontier.rounding, a tenth of tuning_lr: min_lr=1e-07: expected between"),
        ("kd: {lesson_temperatures: [1.0, 1.0]}", r"kd.lesson_temperatures=\[1.0, 1.0\]: expected different"),
        ("frontier: {networks: [vgg 4, vgg 4]}", "frontier.networks=.*: expected different"),
        ("teacher: {penalty: l1, label_smoothing: 0.1}", "teacher.label_smoothing=0.1: expected 0 beside a penalty"),
    ],
)
def test_what_would_be_found_at_the_end_is_found_before_anything_trains(profile, text, message):
    with pytest.raises(parameters.ParameterError, match=message):
        check.check_values(profile(text))


@pytest.mark.parametrize("seeds", ["4294967296", "0 18446744073709551616"])
def test_a_seed_that_no_split_can_be_drawn_by_is_named(profile, seeds):
    message = r"study.seeds=\[.*\]: expected different whole numbers from 0 to 4294967295"
    with pytest.raises(parameters.ParameterError, match=message):
        profile("", seeds=seeds)
    with pytest.raises(parameters.ParameterError, match=message):
        profile("", study=f"dataset: digits, seeds: [{seeds.replace(' ', ', ')}]")
    last = profile("moo: {repetitions: 2}", study="dataset: digits, seeds: [4294967295]")
    with pytest.raises(parameters.ParameterError, match=r"moo.repetitions=2: .*from 4294967295 on"):
        check.check_values(last)
    check.check_values(profile("moo: {repetitions: 1}", study="dataset: digits, seeds: [4294967295]"))


def test_the_defaults_of_notebooks_are_checked_like_a_profile(profile, monkeypatch):
    real = parameters.defaults_of

    def changed(path):
        return real(path) | ({"tuning_epochs": 0} if path.stem.startswith("08") else {})

    monkeypatch.setattr(parameters, "defaults_of", changed)
    with pytest.raises(parameters.ParameterError, match=r"frontier\.tuning"):
        check.check_values(profile(""))


def test_a_network_too_deep_is_refused_in_seconds_and_little_memory(tmp_path):
    project = copy_project(tmp_path / "copy")
    (project / "papermill_params" / "deep.yaml").write_text("study: {dataset: digits}\nteacher: {depth: 4099}\n")
    measured = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
    measured += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    command = [sys.executable, "-c", measured, sys.executable, "engine/study.py", "--profile", "deep", "--", "-n"]
    started = time.monotonic()
    result = subprocess.run(command, cwd=project, env=environment(project), text=True, capture_output=True)
    assert result.returncode and "teacher.depth=4099: expected at most 400" in result.stderr
    assert int(result.stdout.split()[-1]) < 2e6  # kB
    assert time.monotonic() - started < 60  # ten seconds on a machine with nothing else to do


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
        profile(f"teacher: {{lr: {value}}}")


def test_thousands_may_be_set_off(profile):
    assert profile("teacher: {epochs: 1_000}")["teacher"]["epochs"] == 1000
