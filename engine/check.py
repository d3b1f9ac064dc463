"""Holds a profile's values against what studylib accepts, before anything trains."""

import math
from collections.abc import Callable

from engine import parameters

BOUNDS = {  # parameter, of any section → the least and the most that it may be; what is tighter says so itself
    "seeds": (0, parameters.MOST_SEED),
    "threads": (1, 1024),
    "batch": (1, 4096),
    "repeats": (1, 10_000),
    "repetitions": (1, 1000),
    "lesson_seeds": (1, 1000),
    "depth": (7, 400),  # of more layers not even the names fit into a coded file
    "growth": (1, 4096),
    "growths": (1, 4096),
    "widths": (1, 4096),
    "hidden": (1, 4096),
    "epochs": (0, 1_000_000),
    "lesson_epochs": (1, 1_000_000),
    "tuning_epochs": (1, 1_000_000),
    "rounding_epochs": (0, 1_000_000),
    "lr": (0, 1000),
    "tuning_lr": (0, 1000),
    "min_lr": (0, 1000),
    "rates": (0, 1000),
    "batch_size": (2, 65_536),
    "weight_decay": (0, 1000),
    "label_smoothing": (0, 1),
    "ema": (0, 1),
    "views": (0, 1000),
    "temperature": (1e-3, 1e4),
    "temperatures": (1e-3, 1e4),
    "alpha": (0, 1),
    "alphas": (0, 1),
    "rounds": (1, 1000),
    "fraction": (0, 1),
    "tolerance": (0, 1),
    "sparsities": (0, 1),
    "delta": (0, 4096),
    "deltas": (0, 4096),
    "bits": (2, math.inf),  # the most differs by section
    "calibration_images": (1, math.inf),  # as many as there are
    "sums": (0, 1e6),
    "shrinkages": (0, 1e6),
    "tau": (0, 1),
    "taus": (0, 1),
    "coding": (0, 1000),
}
ONE_OR_MORE = ("seeds", "batch", "batch_size", "growths", "temperatures", "alphas")  # of a lesson
DIFFERENT = {  # two that are the same would be one, or an error in a chapter's last cells
    "kd": ("lesson_temperatures", "lesson_alphas"),
    "sweep": ("lesson_growths",),
    "frontier": ("networks",),
}


def data_of(sections: dict[str, dict]) -> str:
    """What the images of the study are, in one word: another where one pixel or label is another."""
    from studylib import data

    return _named(data.load(sections["study"]["dataset"], 0))


def check_values(sections: dict[str, dict]) -> str:
    """Raises ParameterError for a value that a stage would refuse, perhaps hours later; loads the data to know.

    Networks are built without memory for their weights. Returns :func:`data_of` the sections.
    """
    from studylib import data, distill, lowrank, multiobjective, prune

    study = sections["study"]
    _check_device(study["device"])
    loaded = _try("study", data.load, study["dataset"], 0)
    values = {stage: parameters.defaults_of(path) | sections[stage] for stage, path in parameters.notebooks().items()}
    for stage in ("teacher", "kd", "imp", "moo", "frontier"):
        _recipe(stage, values[stage])
    teacher, kd, imp = values["teacher"], values["kd"], values["imp"]
    _try("kd", distill.Distillation, None, kd["temperature"], kd["alpha"])
    _try("imp", prune.check, imp["rounds"], imp["fraction"], imp["tolerance"])
    _check_most(sections)
    _check_student("kd", kd, loaded)
    network = _network(teacher, loaded, study["seeds"])
    _check_network("teacher", teacher, ["network"] if teacher["network"] else ["depth", "growth"], *network, loaded)
    _try("svd", lowrank.rank_for, 8, 8, values["svd"]["delta"])
    if "int8" in study["stages"] or "calibration_images" in sections["int8"]:
        _check_calibration("int8.calibration_images", values["int8"]["calibration_images"], loaded)
    how = {"normalize": True, "tau": teacher["tau"]}
    _try("teacher", multiobjective.penalized, teacher["penalty"], teacher["aggregator"], **how)
    if teacher["penalty"] and teacher["label_smoothing"]:
        raise parameters.ParameterError(
            f"teacher.label_smoothing={teacher['label_smoothing']}: expected 0 beside a penalty, which has none"
        )
    if study["lessons"]:
        _check_lessons(sections, values, loaded)
        _check_comparison(sections["moo"], values["moo"], loaded)
        _check_frontier(values["frontier"], network, loaded)
        if "frontier" in study["chapters"]:  # which is of the first seed
            for file in values["frontier"]["teachers"]:
                _published("frontier.teachers", file, loaded, study["seeds"][:1])
        last = study["seeds"][0] + values["moo"]["repetitions"] - 1
        if "moo" in study["chapters"] and last > parameters.MOST_SEED:
            raise parameters.ParameterError(
                f"moo.repetitions={values['moo']['repetitions']}: they are of the seeds from {study['seeds'][0]} on,"
                f" expected at most {parameters.MOST_SEED} for the last"
            )
    for stage in ("teacher", "kd"):
        made = stage == "teacher" or stage in study["stages"]
        if values[stage]["epochs"] == 0 and made and stage in study["chapters"]:
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
    _check_least(sections)
    return _named(loaded)


def _named(loaded) -> str:
    return f"sha256-{loaded.digest}"  # a word also for who reads numbers where they can


def _check_most(sections: dict[str, dict]) -> None:
    """Every number has a bound above, and what is no number is below none."""
    for name, value, (_, most) in _numbers(sections):
        if not (value <= most and math.isfinite(value)):
            bound = f"at most {most}" if most < math.inf else "a finite number"
            raise parameters.ParameterError(f"{name}={value!r}: expected {bound}")


def _check_least(sections: dict[str, dict]) -> None:
    for name, value, (least, _) in _numbers(sections):
        if value < least:
            raise parameters.ParameterError(f"{name}={value!r}: expected at least {least}")


def _numbers(sections: dict[str, dict]):
    """Name, value and bounds of each number of a profile; of lists, of each item."""
    for section, given in sections.items():
        for key, value in given.items():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, int | float) and not isinstance(each, bool):
                    usual = BOUNDS.get(key.removeprefix("lesson_"), (-math.inf, math.inf))  # of a notebook of one's own
                    yield f"{section}.{key}", each, BOUNDS.get(key, usual)


def _check_calibration(name: str, images: int, loaded) -> None:
    if not 1 <= images <= len(loaded.train):
        raise parameters.ParameterError(f"{name}={images}: expected 1 to {len(loaded.train)}")


def _recipe(section: str, values: dict):
    """The recipe that a notebook makes of its parameters."""
    from studylib import train

    return _try(section, train.Recipe, **{k: v for k, v in values.items() if k in train.Recipe.__dataclass_fields__})


def _check_lessons(sections: dict[str, dict], values: dict[str, dict], loaded) -> None:
    """The same for what only chapters use: they run last, when everything is trained."""
    from studylib import distill, lowrank, models, prune, pt2e, train

    for stage, given in sections.items():
        for name in ONE_OR_MORE:
            value = given.get(f"lesson_{name}", 1)
            if not value or (isinstance(value, int) and value < 1):
                raise parameters.ParameterError(f"{stage}.lesson_{name}={value!r}: expected at least one")
        for name in DIFFERENT.get(stage, ()):
            listed = given.get(name, [])
            if len(set(listed)) < len(listed):
                raise parameters.ParameterError(f"{stage}.{name}={listed!r}: expected different ones")
    kd, imp, svd, int8 = (values[stage] for stage in ("kd", "imp", "svd", "int8"))
    for temperature in kd["lesson_temperatures"]:
        _try("kd.lesson_temperatures", distill.Distillation, None, temperature, 0.5)
    for alpha in kd["lesson_alphas"]:
        _try("kd.lesson_alphas", distill.Distillation, None, 1.0, alpha)
    _try("imp.lesson_sparsities", prune.check_sparsities, imp["lesson_sparsities"])
    sweep = values["sweep"] | {k: v for k, v in sections["teacher"].items() if k in values["sweep"]} | sections["sweep"]
    for stage in ("imp", "svd", "sweep"):
        _try(f"{stage}.lesson_epochs", _at_least_one, values[stage]["lesson_epochs"])
    lr = svd["lesson_lr"]
    _try("svd lesson", train.Recipe, svd["lesson_epochs"], lr, min(1e-7, lr), svd["lesson_batch_size"])
    _recipe("sweep lesson", sweep | {"epochs": sweep["lesson_epochs"], "batch_size": sweep["lesson_batch_size"]})
    for delta in svd["lesson_deltas"]:
        _try("svd.lesson_deltas", lowrank.rank_for, 8, 8, delta)
    bits = int8["lesson_bits"]
    if bits != sorted(set(bits)) or not bits or bits[-1] > 7:
        raise parameters.ParameterError(f"int8.lesson_bits={bits!r}: expected ascending numbers below eight")
    for each in bits:
        _try("int8.lesson_bits", pt2e.bits_of_layers, models.create("convnet", 0), each)
    _try("int8 lesson", train.Recipe, int8["lesson_epochs"], int8["lesson_lr"], 0.0, int8["lesson_batch_size"])
    for growth in sweep["lesson_growths"]:
        _try("sweep.lesson_growths", _at_least_one, growth)
        args = {"depth": sweep["depth"], "growth": growth}
        _check_network("sweep", {"lesson_growths": growth}, ["lesson_growths"], "densenet", args, loaded)
    if "sweep" in sections["study"]["chapters"] or "lesson_calibration_images" in sections["sweep"]:
        _check_calibration("sweep.lesson_calibration_images", sweep["lesson_calibration_images"], loaded)


def _check_comparison(given: dict, values: dict, loaded) -> None:
    from studylib import comparison, train

    recipe = _recipe("moo", values)
    _try("moo.tuning", train.Recipe, values["tuning_epochs"], values["tuning_lr"], values["min_lr"])
    _try("moo", comparison.Plan, recipe, recipe, tuple(values["sparsities"]))
    _try("moo.repetitions", _at_least_one, values["repetitions"])
    names = ("sums", "shrinkages", "taus", "rates")
    settings = [name for name in names if name in given]
    if 0 < len(settings) < len(names):  # each must have as many values
        raise parameters.ParameterError(f"moo: {', '.join(settings)}: expected sums, shrinkages, taus and rates")
    for way in _try("moo", comparison.ways, **{name: values[name] for name in names}):
        for value in way.values:
            _try(f"moo: {way.label}", comparison.step_of, way, value)
            if way.setting == "learning rate":
                _try("moo.rates", train.Recipe, 1, value, min(values["min_lr"], value))
    _check_student("moo", values, loaded)


def _check_frontier(values: dict, network: tuple[str, dict], loaded) -> None:
    from studylib import distill, frontier, models, train

    dense, peak = _recipe("frontier", values), values["tuning_lr"]
    _try("frontier.tuning", train.Recipe, values["tuning_epochs"], peak)
    steps = dense, _try("frontier.rounding, a tenth of tuning_lr", train.Recipe, values["rounding_epochs"], peak / 10)
    _try("frontier.tuning_epochs", _at_least_one, values["tuning_epochs"])
    small = tuple(values["sparsities"]), tuple(values["bits"]), values["coding"]
    _try("frontier", frontier.Plan, dense, *steps, *small)
    _try("frontier", distill.Distillation, None, values["temperature"], 0.9)
    kind, args = network
    for text in values["networks"]:
        name, shape = _try("frontier.networks", models.described, text, {"name": kind, "args": args}, {})
        _check_network("frontier", {"networks": text}, ["networks"], name, shape, loaded)


def _check_student(section: str, values: dict, loaded) -> None:
    shape = {name: values[name] for name in ("widths", "hidden")}
    for name, numbers in shape.items():
        if min(numbers, default=1) < 1:
            raise parameters.ParameterError(f"{section}.{name}={numbers!r}: expected numbers of at least 1")
    _check_network(section, values, list(shape), "convnet", shape, loaded)


def _check_network(section: str, values: dict, keys: list[str], name: str, args: dict, loaded) -> None:
    """What a network is that ``keys`` ask for, without memory for it, and whether its coded file can be read.

    A layer's width is in the file where channels were sliced away, and may there be no larger than other numbers.
    """
    import torch

    from studylib import codec, inference, models

    asked, limits = ", ".join(f"{section}.{key}={values[key]!r}" for key in keys), codec.Limits()
    numbers = [each for value in args.values() for each in (value if isinstance(value, list) else [value])]
    if max(numbers, default=0) > limits.integer:
        raise parameters.ParameterError(f"{asked}: {max(numbers)} in it, expected at most {limits.integer}")
    spec = {"format": models.SPEC_FORMAT, "name": name, "args": args | loaded.model_args, "changes": []}
    with torch.device("meta"):
        model = _try(section, models.build, spec)
        inference.restructure(model, {"widths": {}})
    layers = models.weight_layers(model).values()
    widest = max(max(layer.weight.shape[:2]) for layer in layers)
    total = sum(t.numel() for t in model.state_dict().values()) + sum(len(layer.weight) + 2 for layer in layers)  # int8
    modules = sum(1 for _ in model.modules())
    for what, found, most in (
        ("channels or features in a layer", widest, limits.integer),
        ("numbers", total, limits.parameters),
        ("modules", modules, limits.layers),
    ):
        if found > most:
            raise parameters.ParameterError(f"{asked}: {found} {what}, expected at most {most} (a coded file's limit)")


def _network(teacher: dict, loaded, seeds: list[int]) -> tuple[str, dict]:
    """Kind and arguments of the network that the teacher's section asks for."""
    from studylib import models, restore

    args = {key: teacher[key] for key in ("depth", "growth")}
    text = teacher["network"]
    if text.endswith(restore.ENDING):
        spec = _published("teacher", text, loaded, seeds)
        return spec["name"], {name: value for name, value in spec["args"].items() if name not in loaded.model_args}
    if text:
        return _try("teacher", models.described, text, {"name": "densenet", "args": args}, {})
    return "densenet", args


def _published(section: str, file: str, loaded, seeds: list[int]) -> dict:
    """The spec of the network in the published ``file``, which each of ``seeds`` may go on from."""
    from studylib import data, restore

    for seed in seeds:
        splits = loaded if seed == loaded.seed else data.load(loaded.name, seed)
        model = _try(section, restore.published, file, splits)
    return model.spec


def _check_device(device: str) -> None:
    """What studylib.train.set_up refuses, which also hands torch settings: that takes three seconds of import."""
    import torch

    if device not in ("auto", "cpu", "cuda"):
        raise parameters.ParameterError(f"study: device={device!r}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise parameters.ParameterError("study: device='cuda': this machine has no CUDA device; use auto or cpu")


def _at_least_one(number: int) -> None:
    if number < 1:
        raise ValueError(f"{number}: expected at least 1")


def _try(section: str, call: Callable, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except (ValueError, FileNotFoundError, RuntimeError, TypeError) as error:
        raise parameters.ParameterError(f"{section}: {error}") from error
