"""Controller-guided pruning beside other ways to a smaller dense network, of as many epochs: rows and hypervolumes.

python -m studylib.experiments.controller --out runs/controller [--dataset mnist_5k] [--network "resnet 8-16"]

Each way trains for as many epochs in all, and may use all training images. Each is tuned on another seed, by validation
at the middle budget: three values of one setting. A network is what its coded file holds.
"""

import argparse
import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from pydantic import Field
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from studylib.coding import codec
from studylib.data import datasets
from studylib.data.datasets import Data
from studylib.disk import files
from studylib.experiments.moo_hypervolume import hypervolume
from studylib.networks import cost, filters, saliency, spec
from studylib.networks.gates import Gates
from studylib.results import statistics
from studylib.settings import check_different, read, record
from studylib.techniques import controller, structural
from studylib.techniques.controller import Guidance
from studylib.training import loop
from studylib.training.recipe import Recipe
from studylib.training.step import Plain
from studylib.tree.rows import Task, every

GUIDED = "controller"
WAYS = {  # way → the setting that is tuned, and its values
    GUIDED: ("λ", (10.0, 100.0, 1000.0)),
    "uniform": ("tuning's lr", (0.001, 0.003, 0.01)),
    "global": ("tuning's lr", (0.001, 0.003, 0.01)),
    "slimming": ("weight of |γ|", (0.0003, 0.001, 0.003)),
    "group norm": ("tuning's lr", (0.001, 0.003, 0.01)),
    "narrow": ("lr", (0.003, 0.01, 0.03)),
}
WORDS = {statistics.HELP: "more", statistics.HURT: "less"}
TUNING_LR = 0.003  # of slimming, and of what the controller left


@record
class Comparison:
    """What is compared; the controller's settings but for budget and λ are those of its first epochs, made shorter."""

    network: Annotated[str, Field(description="in words, as resnet 8-16")] = "resnet 8-16"
    budgets: Annotated[
        list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1, description="shares of the multiply-adds")
    ] = dataclasses.field(default_factory=lambda: [0.15, 0.3, 0.5])
    seeds: Annotated[int, Field(ge=1, description="how many, from 0; the one after them is tuned on")] = 5
    epochs: Annotated[int, Field(ge=3, description="of each way, in all")] = 30
    tuning_epochs: Annotated[int, Field(ge=1, description="of them for tuning what was pruned")] = 10
    lr: Annotated[float, Field(gt=0, description="learning rate of all but tuning")] = 0.01
    batch_size: Annotated[int, Field(ge=2, description="images a step")] = 64
    every: Annotated[int, Field(ge=1, description="steps of the weights for one of the controller")] = 2

    def check(self) -> None:
        check_different(self, "budgets")
        if self.tuning_epochs >= self.epochs:
            raise ValueError(f"tuning_epochs={self.tuning_epochs!r}: expected less than epochs={self.epochs}")


def worths(model: nn.Module, gates: Gates, way: str) -> torch.Tensor:
    """What each channel of ``gates`` is worth in ``model``, (n,), as ``way`` ranks them.

    "global": the norm of its rows beside the family's mean. "uniform" and "narrow": its rank in the family by that
    norm, a share of it. "slimming": its batch norms' scales (Liu et al. 2017). "group norm": torch-pruning's, over
    rows, batch norms and readers' columns (Fang et al. 2023, section 3.3). That is beside the mean of its group.
    """
    if way == "group norm":
        return _group_norms(model, gates)
    values = None if way == "slimming" else saliency.saliencies(model)
    score = structural.worth(model, gates.found, values)
    parts = torch.tensor([score.get(channel, math.inf) for channel in gates.channels]).split(gates.sizes)
    if way in ("uniform", "narrow"):
        return torch.cat([part.argsort().argsort() / len(part) for part in parts])
    return torch.cat(parts if way == "slimming" else [part / part.mean() for part in parts])


def _group_norms(model: nn.Module, gates: Gates) -> torch.Tensor:
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
    images = cost.example(model.spec["args"], 1)
    with torch.enable_grad():
        graph.build_dependency(model, images, verbose=False)
    found = []
    for name, family in gates.found.families.items():
        layer = model.get_submodule(name)
        prune = graph.get_pruner_of_module(layer).prune_out_channels
        group = graph.get_pruning_group(layer, prune, list(range(len(layer.weight))))
        found.append(torch_pruning.importance.GroupMagnitudeImportance(p=2)(group)[[row for _, row in family]])
    return torch.cat(found)


def without(model: nn.Module, gates: Gates, opened: torch.Tensor, way: str) -> nn.Module:
    """A copy of ``model`` without the channels that are not ``opened``, its change recorded."""
    new, structure = filters.removed(model, gates.found, gates.closed(opened))
    return spec.with_change(new, "structural", {"criterion": way, "of": len(gates)}, structure)


@dataclasses.dataclass
class Study:
    """The networks of one seed, each trained once."""

    data: Data
    comparison: Comparison
    seed: int

    def __post_init__(self):
        name, args = spec.described(self.comparison.network, {"name": "", "args": {}}, self.data.model_args)
        self.start = spec.create(name, self.seed, data=self.data, **args)
        self.gates = Gates(self.start)
        self.trained = functools.cache(self._trained)

    def recipe(self, epochs: int, lr: float | None = None) -> Recipe:
        given = self.comparison
        return Recipe(epochs=epochs, lr=lr or given.lr, batch_size=given.batch_size)

    def fit(self, model: nn.Module, epochs: int, lr: float | None = None, loss: Plain | None = None) -> nn.Module:
        """``model``, trained in place."""
        loop.fit(model, self.data, self.recipe(epochs, lr), seed=self.seed, loss=loss, keep="last")
        return model

    def _trained(self, shrinkage: float) -> nn.Module:
        """The whole network before it is pruned; ``shrinkage`` weighs the sum of batch norms' scales in its loss."""

        def loss(model, images, labels):
            value, outputs = self.data.task.loss(model, images, labels)
            scales = [module.weight.abs().sum() for module in model.modules() if isinstance(module, _BatchNorm)]
            return value + shrinkage * sum(scales), outputs

        model = spec.build(self.start.spec)
        model.load_state_dict(self.start.state_dict())
        epochs = self.comparison.epochs - self.comparison.tuning_epochs
        return self.fit(model, epochs, loss=Plain(loss, shrinkage) if shrinkage else None)

    def made(self, way: str, budget: float, value: float) -> tuple[nn.Module, dict]:
        """The network that ``way`` leaves at ``budget``, and what else is known of it; ``value``: see :data:`WAYS`."""
        if way == GUIDED:
            return self._guided(budget, value)
        tuning, shrinkage = self.comparison.tuning_epochs, value if way == "slimming" else 0.0
        model = self.start if way == "narrow" else self.trained(shrinkage)
        opened = self.gates.at_budget(worths(model, self.gates, way), budget)
        small = without(model, self.gates, opened, way)
        if way == "narrow":
            return self.fit(small, self.comparison.epochs, value), {}
        before = _accuracy(small, self.data)
        return self.fit(small, tuning, TUNING_LR if way == "slimming" else value), {"untuned": before}

    def _guided(self, budget: float, value: float) -> tuple[nn.Module, dict]:
        guidance = Guidance(budget=budget, every=self.comparison.every, strength=value, final_strength=100 * value)
        recipe = self.recipe(self.comparison.epochs)
        trained = controller.train(self.start, self.data, recipe=recipe, seed=self.seed, guidance=guidance)
        small = without(trained.model, self.gates, trained.opened, GUIDED)
        tuned = self.fit(
            without(trained.model, self.gates, trained.opened, GUIDED), self.comparison.tuning_epochs, TUNING_LR
        )
        last = {key: trained.history[-1][key] for key in ("closed", "zero")}
        last |= {"moved": sum(row["moved"] for row in trained.history)}
        last |= {"kept": [int(part.sum()) for part in trained.opened.split(self.gates.sizes)]}
        return small, last | {
            "unmasked": _accuracy(trained.model, self.data),
            "masked": _accuracy(trained.masked, self.data),
            "sliced": _accuracy(small, self.data),
            "tuned": _accuracy(tuned, self.data),
        }

    def row(self, way: str, budget: float, value: float, out: Path) -> dict:
        """What is measured of a network; its coded file is left in ``out``."""
        started = time.process_time()
        model, about = self.made(way, budget, value)
        file = codec.encode(model)
        name = f"{way}-{budget}-{value}-{self.seed}.slnc".replace(" ", "_")
        files.write_bytes(out / name, file)
        small = codec.decode(file)
        count = cost.multiply_adds(small, self.data.model_args)
        return {
            "share": count / self.gates.full,
            "multiply_adds": count,
            "bytes": len(file),
            "val_accuracy": _accuracy(small, self.data, "validation"),
            "accuracy": _accuracy(small, self.data),
            "file": name,
            "cpu_seconds": time.process_time() - started,
            **about,
        }


def _accuracy(model: nn.Module, data: Data, split: str = "test") -> float:
    shown = getattr(data, split)
    return data.task.scores(data.task.predict(model, shown, data), shown.labels)[data.task.score]


def rows(dataset: str, comparison: Comparison, out: Path, tell: Callable[[str], None] = print) -> pd.DataFrame:
    """Way, budget, seed and value of each network, and what is measured of it. What ``out`` holds is not made again.

    ``tuned_on`` is True of the rows that tuned the ways, at one budget.
    """
    middle = sorted(comparison.budgets)[len(comparison.budgets) // 2]
    key, found = [dataset, dataclasses.asdict(comparison)], []

    def tasks(seed: int, wanted: list[tuple[str, float, float]]) -> Iterator[Task]:
        study = functools.cache(lambda: Study(datasets.load(dataset, seed), comparison, seed))
        for way, budget, value in wanted:
            of = {"way": way, "budget": budget, "seed": seed, "value": value}
            yield of, lambda way=way, budget=budget, value=value: [study().row(way, budget, value, out)]

    def made(seed: int, wanted: list[tuple[str, float, float]], tuning: bool) -> None:
        for row in every(tasks(seed, wanted), out, key):
            about = f"{row['share']:.3f}, {row['bytes']} bytes, accuracy {row['accuracy']:.4f}"
            tell(f"{row['way']}, budget {row['budget']}, seed {seed}, {row['value']}: {about}")
            found.append(row | {"tuned_on": tuning})

    tried = [(way, middle, value) for way, (_, values) in WAYS.items() for value in values]
    made(comparison.seeds, tried, tuning=True)
    best = (
        pd.DataFrame(found).sort_values("val_accuracy", ascending=False, kind="stable").groupby("way")["value"].first()
    )
    for seed in range(comparison.seeds):
        made(
            seed,
            [(way, budget, float(best[way])) for budget, way in itertools.product(comparison.budgets, WAYS)],
            False,
        )
    return pd.DataFrame(found)


def volumes(rows: pd.DataFrame, classes: int, column: str = "accuracy") -> pd.DataFrame:
    """Hypervolume of each way and seed (a table seed × way) above the whole network at chance.

    The axes are log₂(multiply-adds of the whole / of the network) and the accuracy in ``column``.
    """
    part = rows[~rows["tuned_on"]]
    depth = -part["share"].map(math.log2)
    pairs = part.assign(point=list(zip(depth, part[column], strict=True)))
    found = pairs.groupby(["seed", "way"])["point"].apply(lambda points: hypervolume(points, (0.0, 1 / classes)))
    return found.unstack("way")


def against(volumes: pd.DataFrame, rival: str) -> pd.DataFrame:
    """Mean volume of each way, and ``rival``'s less it with Student's interval at 95 % over seeds.

    ``verdict`` is "more" where the volume of ``rival`` is more than the way's, "less", or "cannot tell".
    """
    found = []
    for way in volumes.columns:
        gain = (volumes[rival] - volumes[way]).to_numpy()
        low, high = statistics.t_interval(gain)
        verdict = statistics.judge((low, high))
        verdict = "–" if way == rival else WORDS.get(verdict, verdict)
        mean = {"way": way, "mean": volumes[way].mean(), f"{rival} less it": gain.mean()}
        found.append(mean | {"low": low, "high": high, "verdict": verdict, "seeds": len(gain)})
    return pd.DataFrame(found)


def latencies(table: pd.DataFrame, out: Path, *, batch: int = 64, rounds: int = 40) -> pd.Series:
    """Least milliseconds of each row's network for ``batch`` images, uncompiled; the networks take turns.

    The least, as what else runs on the machine only adds.
    """
    clocks = []
    for name in table["file"]:
        model = codec.decode((out / name).read_bytes())
        clocks.append(cost.timer(model, cost.example(model.spec["args"], batch), compiled=False))
    times = pd.DataFrame([[once() for once in clocks] for _ in range(rounds)])
    return pd.Series(times.min().to_numpy(), index=table.index)


def rank_correlation(table: pd.DataFrame, left: str, right: str, draws: int = 2000) -> tuple[float, float, float]:
    """Spearman's correlation of two columns, with its 95 % interval over networks drawn anew.

    The bootstrap's percentiles (Efron and Tibshirani 1993, chapter 13), of draws that are not all of one network.
    """

    def of(part: pd.DataFrame) -> float:
        several = part[[left, right]].nunique().min() > 1
        return float(part[left].corr(part[right], method="spearman")) if several else math.nan

    drawn = [of(table.sample(len(table), replace=True, random_state=i)) for i in range(draws)]
    low, high = pd.Series(drawn).quantile([0.025, 0.975])
    return of(table), float(low), float(high)


def report(table: pd.DataFrame, classes: int) -> None:
    """Prints means by way and budget, volumes against the controller's, and how latency follows multiply-adds.

    Networks of one budget have nearly the same multiply-adds: among them something else decides the latency.
    """
    part = table[~table["tuned_on"]]
    columns = ["share", "bytes", "accuracy", "latency_ms"]
    print(part.groupby(["budget", "way"], sort=False)[columns].mean().round(4).to_string())
    ours = part[part["way"] == GUIDED]
    print(
        ours.groupby("budget")[["unmasked", "masked", "sliced", "tuned", "zero", "moved"]].mean().round(4).to_string()
    )
    gain = 100 * (ours["tuned"] - ours["sliced"]).groupby(ours["seed"]).mean().to_numpy()
    low, high = statistics.t_interval(gain)
    interval = "one seed" if math.isnan(low) else f"{low:+.2f} to {high:+.2f}; n = {len(gain)}"
    print(f"fine-tuning what the controller left: {gain.mean():+.2f} points ({interval})")
    print(against(volumes(table, classes), GUIDED).round(4).to_string(index=False))
    alike = [(f"at a budget of {budget:g}", group) for budget, group in part.groupby("budget")]
    for where, group in [("of all networks", part), *alike]:
        found, low, high = rank_correlation(group, "multiply_adds", "latency_ms")
        numbers = f"{found:.3f} ({low:.3f} to {high:.3f}; n = {len(group)})"
        print(f"rank correlation of multiply-adds and latency {where}: {numbers}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/controller"), help="folder of rows and files")
    parser.add_argument("--dataset", default="digits")
    usual = Comparison()
    parser.add_argument("--network", default=usual.network)
    parser.add_argument("--budgets", type=float, nargs="+", default=usual.budgets)
    for name in ("seeds", "epochs", "tuning_epochs", "batch_size", "every"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(usual, name))
    args = vars(parser.parse_args())
    out, dataset = args.pop("out"), args.pop("dataset")
    loop.set_up(1, "cpu")
    table = rows(dataset, read(Comparison, args, "comparison"), out, lambda text: print(text, flush=True))
    table["latency_ms"] = latencies(table, out)
    table.to_csv(out / "rows.csv", index=False)
    report(table, len(datasets.load(dataset).classes))


if __name__ == "__main__":
    main()
