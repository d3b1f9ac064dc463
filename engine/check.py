"""Holds a profile's values against what studylib accepts, before anything trains."""

import dataclasses
from collections.abc import Callable

from engine import parameters


def check_values(sections: dict[str, dict]) -> None:
    """Raises ParameterError for a value that a stage would refuse, perhaps hours later; loads the data to know."""
    from studylib import data, distill, lowrank, models, multiobjective, prune, train

    study = sections["study"]
    _check_device(study["device"])
    loaded = _try("study", data.load, study["dataset"], 0)
    fields = train.Recipe.__dataclass_fields__
    for stage in ("teacher", "kd", "imp"):
        _try(stage, train.Recipe, **{k: v for k, v in sections[stage].items() if k in fields})
    _check_widths("kd", sections["kd"])
    shape = {k: v for k, v in sections["kd"].items() if k in ("widths", "hidden")}
    _try("kd", models.create, "convnet", 0, **shape, **loaded.model_args)
    network = _network(sections["teacher"], loaded, study["seeds"])
    _try("teacher", models.create, *network[:1], 0, **network[1], **loaded.model_args)
    kd, imp = sections["kd"], sections["imp"]
    _try("kd", distill.Distillation, None, kd.get("temperature", 5.0), kd.get("alpha", 0.7))
    _try("imp", prune.check, imp.get("rounds", 1), imp.get("fraction", 0.2), imp.get("tolerance", 0.0))
    _try("svd", lowrank.rank_for, 8, 8, sections["svd"].get("delta", 1))
    images = sections["int8"].get("calibration_images", 1)
    if not 1 <= images <= len(loaded.train):
        raise parameters.ParameterError(f"int8.calibration_images={images}: expected 1 to {len(loaded.train)}")
    names = {"penalty": "", "aggregator": "PCD", "tau": 0.5}
    penalty, aggregator, tau = [sections["teacher"].get(name, default) for name, default in names.items()]
    _try("teacher", multiobjective.penalized, penalty, aggregator, normalize=True, tau=tau)
    if study["lessons"]:
        _check_lessons(sections, loaded)
        _check_comparison(sections["moo"], loaded)
        _check_frontier(sections["frontier"], network, loaded)
        if "frontier" in study["chapters"]:  # which is of the first seed
            for file in sections["frontier"].get("teachers", []):
                _published("frontier.teachers", file, loaded, study["seeds"][:1])
    for stage in ("teacher", "kd"):
        made = stage == "teacher" or stage in study["stages"]
        if sections[stage].get("epochs") == 0 and made and stage in study["chapters"]:
            raise parameters.ParameterError(
                f"{stage}.epochs=0: expected at least 1 where its chapter, which shows it, is run"
            )
    wants = [stage for stage in ("teacher", "kd", "imp", "moo", "frontier") if sections[stage].get("compile")]
    if wants:
        from studylib import latency  # two seconds of import

        if reason := latency.why_not_compile():
            raise parameters.ParameterError(
                f"{wants[0]}.compile=True: {reason}; install g++ and python3-dev, or set it false"
            )
    for name in ("batch", "repeats"):
        if sections["latency"][name] < 1:
            raise parameters.ParameterError(f"latency.{name}={sections['latency'][name]}: expected at least 1")


def _check_lessons(sections: dict[str, dict], loaded) -> None:
    """The same for what only chapters use: they run last, when everything is trained."""
    from studylib import distill, lowrank, models, prune, pt2e, train

    def given(stage: str, name: str, default):
        return sections[stage].get(f"lesson_{name}", default)

    for stage, values in sections.items():
        for name in (
            "lesson_seeds",
            "lesson_batch",
            "lesson_batch_size",
            "lesson_growths",
            "lesson_temperatures",
            "lesson_alphas",
        ):
            value = values.get(name, 1)
            if not value or (isinstance(value, int) and value < 1):
                raise parameters.ParameterError(f"{stage}.{name}={value!r}: expected at least one")
    for temperature in given("kd", "temperatures", []):
        _try("kd.lesson_temperatures", distill.Distillation, None, temperature, 0.5)
    for alpha in given("kd", "alphas", []):
        _try("kd.lesson_alphas", distill.Distillation, None, 1.0, alpha)
    _try("imp.lesson_sparsities", prune.check_sparsities, given("imp", "sparsities", [0.5]))
    for stage in ("imp", "svd", "sweep"):
        _try(f"{stage}.lesson_epochs", _at_least_one, given(stage, "epochs", 1))
        _try(f"{stage} lesson", train.Recipe, 1, given(stage, "lr", 1e-3), 0.0, given(stage, "batch_size", 32))
    for delta in given("svd", "deltas", []):
        _try("svd.lesson_deltas", lowrank.rank_for, 8, 8, delta)
    bits = given("int8", "bits", [4])
    if bits != sorted(set(bits)) or not bits or bits[-1] > 7:
        raise parameters.ParameterError(f"int8.lesson_bits={bits!r}: expected ascending numbers below eight")
    for each in bits:
        _try("int8.lesson_bits", pt2e.bits_of_layers, models.create("convnet", 0), each)
    recipe = (given("int8", "epochs", 1), given("int8", "lr", 1e-3), 0.0, given("int8", "batch_size", 32))
    _try("int8 lesson", train.Recipe, *recipe)
    for growth in given("sweep", "growths", []):
        _try("sweep.lesson_growths", _at_least_one, growth)
        depth = {k: v for k, v in sections["teacher"].items() if k == "depth"}
        _try("sweep.lesson_growths", models.create, "densenet", 0, growth=growth, **depth, **loaded.model_args)
    images = given("sweep", "calibration_images", 1)
    if not 1 <= images <= len(loaded.train):
        raise parameters.ParameterError(f"sweep.lesson_calibration_images={images}: expected 1 to {len(loaded.train)}")


def _check_comparison(given: dict, loaded) -> None:
    from studylib import comparison, models, train

    fields = train.Recipe.__dataclass_fields__
    recipe = _try("moo", train.Recipe, **{"epochs": 1} | {k: v for k, v in given.items() if k in fields})
    tuning = {"epochs": given.get("tuning_epochs", 1), "lr": given.get("tuning_lr", recipe.lr)}
    _try("moo.tuning", train.Recipe, **tuning)
    _try("moo", comparison.Plan, recipe, recipe, tuple(given.get("sparsities", [0.5])))
    _try("moo.repetitions", _at_least_one, given.get("repetitions", 1))
    settings = {name: given[name] for name in ("sums", "shrinkages", "taus", "rates") if name in given}
    if settings:  # all four or none: each must have as many values
        if len(settings) < 4:
            raise parameters.ParameterError(f"moo: {', '.join(settings)}: expected sums, shrinkages, taus and rates")
        for way in _try("moo", comparison.ways, **settings):
            for value in way.values:
                _try(f"moo: {way.label}", comparison.step_of, way, value)
                if way.setting == "learning rate":
                    _try("moo.rates", train.Recipe, 1, value)
    shape = {key: value for key, value in given.items() if key in ("widths", "hidden")}
    _check_widths("moo", given)
    _try("moo", models.create, "convnet", 0, **shape, **loaded.model_args)


def _check_frontier(given: dict, network: tuple[str, dict], loaded) -> None:
    from studylib import distill, frontier, models, train

    fields = {"epochs": 1} | {k: v for k, v in given.items() if k in train.Recipe.__dataclass_fields__}
    dense = _try("frontier", train.Recipe, **fields)
    steps = [
        _try(f"frontier.{name}", train.Recipe, given.get(f"{name}_epochs", 1), given.get("tuning_lr", dense.lr))
        for name in ("tuning", "rounding")
    ]
    _try("frontier.tuning_epochs", _at_least_one, given.get("tuning_epochs", 1))
    small = tuple(given.get("sparsities", [0.5])), tuple(given.get("bits", [4])), given.get("coding", 0.0)
    _try("frontier", frontier.Plan, dense, *steps, *small)
    _try("frontier", distill.Distillation, None, given.get("temperature", 4.0), 0.9)
    kind, args = network
    for text in given.get("networks", []):
        name, shape = _try("frontier.networks", models.described, text, {"name": kind, "args": args}, loaded.model_args)
        _try("frontier.networks", models.create, name, 0, **shape)


def _network(teacher: dict, loaded, seeds: list[int]) -> tuple[str, dict]:
    """Kind and arguments of the network that the teacher's section asks for."""
    from studylib import models, restore

    args = {key: value for key, value in teacher.items() if key in ("depth", "growth")}
    text = teacher.get("network", "")
    if text.endswith(restore.ENDING):
        spec = _published("teacher", text, loaded, seeds)
        return spec["name"], {name: value for name, value in spec["args"].items() if name not in loaded.model_args}
    if text:
        return _try("teacher", models.described, text, {"name": "densenet", "args": args}, {})
    return "densenet", args


def _published(section: str, file: str, loaded, seeds: list[int]) -> dict:
    """The spec of the network in the published ``file``, which each of ``seeds`` may go on from."""
    from studylib import restore

    for seed in seeds:
        model = _try(section, restore.published, file, dataclasses.replace(loaded, seed=seed))
    return model.spec


def _check_device(device: str) -> None:
    """What studylib.train.set_up refuses, which also hands torch settings: that takes three seconds of import."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise parameters.ParameterError(f"study: device={device!r}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise parameters.ParameterError("study: device='cuda': this machine has no CUDA device; use auto or cpu")


def _check_widths(section: str, given: dict) -> None:
    for name in ("widths", "hidden"):
        if min(given.get(name, [1]), default=1) < 1:
            raise parameters.ParameterError(f"{section}.{name}={given[name]!r}: expected numbers of at least 1")


def _at_least_one(number: int) -> None:
    if number < 1:
        raise ValueError(f"{number}: expected at least 1")


def _try(section: str, call: Callable, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except (ValueError, FileNotFoundError, RuntimeError, TypeError) as error:
        raise parameters.ParameterError(f"{section}: {error}") from error
