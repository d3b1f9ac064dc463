"""What chapter 13 measures: a row for each way to train the small network, of each seed and split."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from torch import nn

from studylib.disk import files
from studylib.disk.code import code_digest
from studylib.federated import job as jobs
from studylib.federated import messages, run, splits, teacher
from studylib.federated.job import Federation, Job
from studylib.federated.rare import rare
from studylib.federated.splits import Splits
from studylib.federated.teacher import Teacher
from studylib.networks import cost
from studylib.settings import check_different, read, record
from studylib.techniques.distill import Student
from studylib.training.recipe import Recipe
from studylib.tree.rows import every

FEDAVG, FEDPROX, ALONE, CENTRAL = "fedavg", "fedprox", "alone", "central"  # ways to train; the last two: bounds
TAUGHT, TEACHER = "taught", "teacher"  # what is added to a way with a teacher; the way that is the teacher itself
CLASSES = 0.0  # in the place of α: each client has a few whole classes
OWN = "flower"  # the form of messages that nothing is coded in


@record
class Comparison:
    """What is compared, and how often."""

    repetitions: Annotated[int, Field(ge=1, le=1000, description="seeds, from the study's on")] = 1
    alphas: Annotated[
        list[Annotated[float, Field(ge=0, le=1e6)]],
        Field(min_length=1, description="of Dirichlet splits; 0: a few whole classes each"),
    ] = dataclasses.field(default_factory=lambda: [0.1])
    mu: Annotated[float, Field(gt=0, le=1e6, description="of fedprox")] = 0.1
    coded_at: Annotated[
        float, Field(ge=0, le=1e6, description="the one of alphas at which forms and teachers are compared")
    ] = 0.1
    forms: Annotated[
        list[str], Field(description="of messages, with the share that is left out: float16, int8, int4 0.9")
    ] = dataclasses.field(default_factory=lambda: ["int8"])
    teachers: Annotated[
        list[dict], Field(description="what is otherwise in a teacher that clients get: weights, sparsity")
    ] = dataclasses.field(default_factory=list)

    def check(self) -> None:
        check_different(self, "alphas", "forms")
        if self.coded_at not in self.alphas:
            raise ValueError(f"coded_at={self.coded_at!r}: expected one of alphas={self.alphas!r}")
        for form in self.forms:
            if Federation(**form_of(form)).form == OWN:
                raise ValueError(f"forms: {form!r} is compared anyway; expected others")
        for given in self.teachers:
            read(Teacher, given, "teachers")

    def fits(self, federation: Federation, recipe: Recipe) -> None:
        """ValueError where the settings of a federation say what is compared, or images are not trained as they are."""
        if federation.teaching == 0:
            raise ValueError("federation.teaching=0.0: expected a weight, with which the teacher is compared")
        said = {"strategy": "fedavg", "mu": 0.0, "form": OWN, "pruned": 0.0}
        for name, value in said.items():
            if (given := getattr(federation, name)) != value:
                raise ValueError(f"federation.{name}={given!r}: expected it left out, as the chapter compares them")
        if recipe.views or recipe.augments:
            raise ValueError("recipe.augmentation: expected none, as the teacher's logits are kept image by image")


def form_of(words: str) -> dict:
    """The settings form and pruned of a :class:`Federation`, from words such as "int4 0.9"; ValueError otherwise."""
    form, _, share = words.partition(" ")
    try:
        return {"form": form, "pruned": float(share or 0)}
    except ValueError as error:
        raise ValueError(f"forms: {words!r}: expected a form and maybe a share, such as int4 0.9") from error


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of all rows."""

    dataset: str
    seed: int
    splits: Splits
    federation: Federation
    student: Student
    recipe: Recipe
    teacher: Teacher
    teaching: Recipe
    comparison: Comparison

    def job(self, folder: Path, seed: int, alpha: float, federation: Federation, of: Teacher) -> Job:
        return Job(
            folder=folder,
            dataset=self.dataset,
            seed=seed,
            splits=self.parted(alpha),
            federation=federation,
            student=self.student,
            recipe=self.recipe,
            teacher=of,
        )

    def parted(self, alpha: float) -> Splits:
        """The splits of ``alpha``."""
        kind = {"kind": "classes"} if alpha == CLASSES else {"kind": "dirichlet", "alpha": alpha}
        return dataclasses.replace(self.splits, **kind)

    def key(self) -> list:
        """All settings as JSON data."""
        return [
            dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value for value in vars(self).values()
        ]


def _home(plan: Plan, folder: Path) -> Path:
    """Where federations of these settings and of this code lie: others are not taken for them."""
    key = json.dumps([code_digest(jobs.train), *plan.key()])
    return folder / hashlib.sha256(key.encode()).hexdigest()[:12]


def compared(plan: Plan, folder: Path, processes: int = 1) -> pd.DataFrame:
    """A row per seed, α and way; federations by Flower, all in one simulation, and each kept below ``folder``.

    Returns:
        In words: way, form and teacher, what clients get. Of the test images, 0…1: accuracy, balanced and worst.
        Means over classes, rare: those that few clients hold; common: the others. Both are None where none is rare.
        Bytes of all rounds: down and up.
        Bytes of the teacher's file, once for each client: teacher_bytes.
        Of a client, the mean over those that train: multiply_adds. Of the way "teacher" these are for one image.
        How many replies were not used: left_out.

    Raises:
        ModuleNotFoundError: rows are to be made, and the extra is not installed.
    """
    folder = _home(plan, folder)
    tasks = list(_federations(plan, folder))
    run.simulate([job.folder for _, job in tasks], folder / "flower", processes)
    made = [(of, functools.partial(_federated_row, job)) for of, job in tasks]
    others = [*_baselines(plan, folder), *_teachers(plan, folder)]
    made += [(of, functools.partial(make, job)) for of, job, make in others]
    return pd.DataFrame(every(made, folder / "rows", plan.key()))


def along(plan: Plan, folder: Path) -> list[dict]:
    """A round a row, of the federations whose forms are compared: seed, form, round, down, up, validation.

    Bytes are those of the round, of all clients. ``validation`` is the accuracy of the mean weights on images that
    nobody trains with, 0…1. :func:`compared` has made what is read here.
    """
    tasks = _federations(plan, _home(plan, folder))
    chosen = [
        (of, job)
        for of, job in tasks
        if (of["alpha"], of["way"]) == (plan.comparison.coded_at, f"{FEDAVG} {TAUGHT}") and job.teacher == plan.teacher
    ]
    return [
        {"seed": of["seed"], "form": of["form"], **{name: row[name] for name in ("round", "down", "up", "validation")}}
        for of, job in chosen
        for row in files.read_json(job.folder / jobs.RESULT)["rounds"]
    ]


def held(plan: Plan) -> list[dict]:
    """Who has what, first seed: a row per α, client and class. It has the number of images, and whether it is rare."""
    found = []
    for alpha in plan.comparison.alphas:
        job = plan.job(Path(), plan.seed, alpha, plan.federation, plan.teacher)
        data = job.data()
        images = splits.counts(data.train.labels, job.parts()[1], len(data.classes))
        few = set() if alpha == CLASSES else set(rare(images))
        found += [
            {"alpha": alpha, "client": client, "class": data.classes[label], "images": int(images[client, label])}
            | {"rare": label in few}
            for client, label in np.ndindex(images.shape)
        ]
    return found


def _seeds(plan: Plan) -> range:
    return range(plan.seed, plan.seed + plan.comparison.repetitions)


def _federations(plan: Plan, folder: Path) -> Iterator[tuple[dict, Job]]:
    """What a row is of, and its job, written down with its teacher's file."""
    compare = plan.comparison
    plain = dataclasses.replace(plan.federation, teaching=0.0)
    taught = plan.federation
    prox = {"strategy": "fedprox", "mu": compare.mu}
    ways = {FEDAVG: plain, FEDPROX: dataclasses.replace(plain, **prox), f"{FEDAVG} {TAUGHT}": taught}
    ways[f"{FEDPROX} {TAUGHT}"] = dataclasses.replace(taught, **prox)
    for seed, alpha in itertools.product(_seeds(plan), compare.alphas):
        for way, federation in ways.items():
            yield _written(plan, folder, seed, alpha, way, federation, plan.teacher)
        if alpha != compare.coded_at:
            continue
        for form in compare.forms:
            coded = dataclasses.replace(taught, **form_of(form))
            yield _written(plan, folder, seed, alpha, f"{FEDAVG} {TAUGHT}", coded, plan.teacher)
        for given in compare.teachers:
            of = dataclasses.replace(plan.teacher, **given)
            yield _written(plan, folder, seed, alpha, f"{FEDAVG} {TAUGHT}", taught, of)


def _written(plan, folder, seed, alpha, way, federation, of: Teacher) -> tuple[dict, Job]:
    form = federation.form + (f" {federation.pruned:g}" if federation.pruned else "")
    about = {"seed": seed, "alpha": alpha, "way": way, "form": form, "teacher": words(of)}
    home = folder / "jobs" / "-".join(str(value).replace(" ", "_") for value in about.values())
    job = plan.job(home, seed, alpha, federation, of)
    if not (home / jobs.SETTINGS).exists():
        job.save(_handed_out(plan, folder, seed, of) if federation.teaching else b"")
    return about, job


def words(of: Teacher) -> str:
    """What clients get of a teacher: as trained, int8, int8 and pruned 0.8."""
    parts = [of.weights] * (of.weights != "float32") + [f"pruned {of.sparsity:g}"] * (of.sparsity > 0)
    return " and ".join(parts) or "as trained"


def _handed_out(plan: Plan, folder: Path, seed: int, of: Teacher) -> bytes:
    """The teacher's file, from the disk where it was made before; the large network is trained once a seed."""
    path = folder / "teachers" / f"{seed}-{words(of).replace(' ', '_')}.slns"
    if not path.exists():
        any_job = plan.job(folder, seed, plan.comparison.alphas[0], plan.federation, of)
        whole = teacher.whole(of)
        if of == whole:
            model = teacher.trained(of, any_job.teachers(), plan.teaching, seed)
        else:
            model = teacher.read(whole, _handed_out(plan, folder, seed, whole), any_job.data(), seed)
        file, _ = teacher.handed_out(of, model, any_job.data(), seed)
        files.write_bytes(path, file)
    return path.read_bytes()


def _federated_row(job: Job) -> list[dict]:
    found = files.read_json(job.folder / jobs.RESULT)
    sums = {"down": found["down"], "up": found["up"], "left_out": sum(found["left_out"].values())}
    file = (job.folder / jobs.TEACHER).stat().st_size if job.federation.teaching else 0
    return [_scores(found["by_class"], job) | sums | {"teacher_bytes": file, "multiply_adds": _work(job)}]


def _work(job: Job) -> float:
    """Multiply-adds of a client in all rounds, the mean over those that train."""
    able = [k for k, part in enumerate(job.parts()[1]) if len(part) >= splits.LEAST]
    rounds = job.federation.rounds * job.federation.share
    return float(np.mean([rounds * jobs.work(job, k) + jobs.asked(job, k) for k in able]))


def _scores(by_class: list[float], job: Job) -> dict:
    each, data = np.array(by_class), job.data()
    few = rare(splits.counts(data.train.labels, job.parts()[1], len(data.classes)))
    common = [label for label in range(len(each)) if label not in few]
    weights = np.bincount(data.test.labels.numpy(), minlength=len(each)) / len(data.test)
    found = {"accuracy": each @ weights, "balanced": each.mean(), "worst": each.min()}
    found |= {"rare": each[few].mean(), "common": each[common].mean()} if few else {"rare": None, "common": None}
    return {name: None if value is None else float(value) for name, value in found.items()}


def _baselines(plan: Plan, folder: Path) -> Iterator[tuple[dict, Job, object]]:
    for seed, alpha in itertools.product(_seeds(plan), plan.comparison.alphas):
        for way, make in ((ALONE, _alone), (CENTRAL, _central)):
            for taught in (False, True):
                federation = dataclasses.replace(plan.federation, strategy="fedavg", mu=0.0)
                federation = dataclasses.replace(federation, teaching=plan.federation.teaching if taught else 0.0)
                name = f"{way} {TAUGHT}" if taught else way
                about, job = _written(plan, folder, seed, alpha, name, federation, plan.teacher)
                yield {**about, "form": ""}, job, make


def _alone(job: Job) -> list[dict]:
    """Each client alone: scores in the mean over those that train."""
    able = [k for k, part in enumerate(job.parts()[1]) if len(part) >= splits.LEAST]
    each = [_scores(jobs.scored(_trained(job, job.of_client(k), k), job.data())["by_class"], job) for k in able]
    means = {name: float(np.mean([row[name] for row in each])) for name in each[0] if each[0][name] is not None}
    return [means | _nothing_sent(job) | {"multiply_adds": _work(job)}]


def _central(job: Job) -> list[dict]:
    """The images of all clients in one place."""
    found = jobs.scored(_trained(job, job.together(), 0), job.data())
    return [_scores(found["by_class"], job) | _nothing_sent(job) | {"multiply_adds": None}]


def _trained(job: Job, data, client: int) -> nn.Module:
    """The student after as many rounds as the federation's, each with a new optimizer."""
    model = job.model()
    weights = messages.floats(model.state_dict())
    data = jobs.with_logits(data, job.taught_by if job.federation.teaching else None)
    for number in range(1, job.federation.rounds + 1):
        weights = jobs.train(job, data, weights, job.seed_of(client, number))
    model.load_state_dict({**model.state_dict(), **weights})
    return model


def _nothing_sent(job: Job) -> dict:
    file = (job.folder / jobs.TEACHER).stat().st_size if job.federation.teaching else 0
    return {"down": 0, "up": 0, "left_out": 0, "teacher_bytes": file}


def _teachers(plan: Plan, folder: Path) -> Iterator[tuple[dict, Job, object]]:
    for seed in _seeds(plan):
        for given in ({}, *plan.comparison.teachers):
            of = dataclasses.replace(plan.teacher, **given)
            about = {"seed": seed, "alpha": None, "way": "teacher", "form": "", "teacher": words(of)}
            file = functools.partial(_handed_out, plan, folder, seed, of)
            job = plan.job(folder, seed, plan.comparison.alphas[0], plan.federation, of)
            yield about, job, functools.partial(_teacher, file)


def _teacher(file: Callable[[], bytes], job: Job) -> list[dict]:
    """The teacher that clients get, itself."""
    content = file()
    model = teacher.read(job.teacher, content, job.data(), job.seed)
    found = jobs.scored(model, job.data())
    scores = {name: found[name] for name in ("accuracy", "balanced", "worst")}
    work = cost.multiply_adds(model, job.data().model_args)
    return [scores | {"teacher_bytes": len(content), "multiply_adds": work}]
