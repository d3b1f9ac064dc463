"""Chapter 6: ways to train for compression, tuned alike: rows of the comparison, and what they say."""

from pathlib import Path

import pandas as pd
import torch
from torch import nn

from studylib.data import datasets
from studylib.data.datasets import Data
from studylib.descent import objectives
from studylib.descent.objectives import cross_entropy, l1
from studylib.experiments import moo_hypervolume, moo_training
from studylib.experiments.moo_ways import METHOD, RIVALS, Way
from studylib.networks import spec
from studylib.results import claims, statistics
from studylib.results.tables import plus_minus
from studylib.techniques.distill import Student
from studylib.tree.published import Published

RAISES = ["ascends_cross_entropy", "ascends_l1"]  # columns of a history: share of the steps that raise a loss
LOSSES = ["value_cross_entropy", "value_l1"]
ALONG = ["way", "value", "seed", "epoch", *LOSSES, "cosine_l1", *RAISES]  # what is shown of the histories


def fresh(network: Student, data: Data, seed: int, device: torch.device) -> nn.Module:
    """The network before training; its weights are drawn by ``seed``."""
    kind, args = network.described(data.model_args)
    return spec.create(kind, seed, data=data, **args).to(device)


def gradients(model: nn.Module, data: Data, batch_size: int) -> dict:
    """The gradients of cross-entropy and L1 on the first ``batch_size`` training images, in one row.

    Returns:
        weights (how many are to be pruned), classes, task and l1 (lengths), cosine.
    """
    weights, device = objectives.weights(model), next(model.parameters()).device
    images = data.train.images[:batch_size].to(device)
    labels = data.train.labels[:batch_size].to(device)
    logits = model(data.to(device).normalize(images))
    task = torch.autograd.grad(cross_entropy(model, (images, labels), logits), weights)
    _, slopes = l1.closed_form(model)
    first = torch.cat([gradient.flatten() for gradient in task])
    second = torch.cat([slopes[weight].flatten() for weight in weights])
    cosine = torch.cosine_similarity(first, second, dim=0).item()
    row = {"weights": sum(weight.numel() for weight in weights), "classes": len(data.classes)}
    return row | {"task": first.norm().item(), "l1": second.norm().item(), "cosine": cosine}


def compared(
    data: Data,
    network: Student,
    settings: moo_training.Comparison,
    plan: moo_training.Plan,
    device: torch.device,
    folder: Path,
) -> dict[str, pd.DataFrame]:
    """Every way at every value on the first seed, that of ``data``, and at its best value on all seeds.

    Each seed has its own split and first weights. What is finished is left in ``folder``, and read by a later call.

    Returns:
        tried: way, value, seed, stage, sparsity, val_accuracy (0…1), of all values on the first seed.
        chosen: the rows of :func:`studylib.experiments.moo_training.run` at the best value of each way, all seeds.
        history: the rows of those trainings.

    Raises:
        ValueError: the network does not fit ``data``.
    """
    network.against(data)
    tried, best, rows, curves = [], {}, [], []
    for way in settings.ways():
        start = fresh(network, data, data.seed, device)
        seen, best[way.label], (found, history) = moo_training.search(way, start, data, plan, data.seed, folder)
        tried, rows, curves = tried + seen, rows + found, curves + history
    for seed in range(data.seed + 1, data.seed + settings.repetitions):
        images = datasets.load(data.name, seed)
        for way in settings.ways():
            start = fresh(network, data, seed, device)
            found, history = moo_training.run(way, best[way.label], start, images, plan, seed, folder)
            rows, curves = rows + found, curves + history
    return {"tried": pd.DataFrame(tried), "chosen": pd.DataFrame(rows), "history": pd.DataFrame(curves)}


def steps(history: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row per way: share of the steps of ``seed`` that raise each loss (%), both losses at the end, fallbacks."""
    rows = []
    for label, part in history[history["seed"] == seed].groupby("way", sort=False):
        row = {"way": label, **(100 * part[RAISES].mean()), **part[LOSSES].iloc[-1]}
        rows.append(row | {"fallbacks": int(part["fallbacks"].sum())})
    return pd.DataFrame(rows)


def scores(tried: pd.DataFrame, classes: int) -> pd.Series:
    """(way, value) → share of the plane that it dominates on validation images, mean of both stages."""
    volumes = moo_hypervolume.volumes(tried, "val_accuracy", classes)
    return volumes.groupby(["way", "value"], sort=False)["volume"].mean()


def by_value(ways: list[Way], score: pd.Series, best: dict[str, float]) -> pd.DataFrame:
    """A row per way, in words: its setting, and each value with the % that it dominates, the best in bold."""
    rows = []
    for way in ways:
        marks = {value: "**" if value == best[way.label] else "" for value in way.values}
        found = ", ".join(f"{bold}{v:g}: {100 * score[way.label, v]:.1f}{bold}" for v, bold in marks.items())
        rows.append({"way": way.label, "setting": way.setting, "value: % dominated": found})
    return pd.DataFrame(rows)


def against_sums(chosen: pd.DataFrame, classes: int) -> pd.DataFrame:
    """Rows of :func:`studylib.experiments.moo_hypervolume.against` on test images, for each weighted sum (rival)."""
    volumes = moo_hypervolume.volumes(chosen, "test_accuracy", classes)
    found = [moo_hypervolume.against(volumes, rival).assign(rival=rival) for rival in RIVALS]
    return pd.concat(found, ignore_index=True)


def dominated(hypervolume: pd.DataFrame, best: dict[str, float]) -> pd.DataFrame:
    """The rows of :func:`against_sums` in words: a row per stage and way."""
    against = {rival: rows for rival, rows in hypervolume.groupby("rival", sort=False)}
    table = against[RIVALS[0]]
    shown = table[["stage", "way"]].assign(value=table["way"].map(best).map("{:g}".format))
    shown["dominated %"] = [plus_minus(100 * row.mean, 100 * row.sd, 1) for row in table.itertuples()]
    for rival, rows in against.items():
        shown[f"over the {rival}"] = [moo_hypervolume.said(r) if r.way != rival else "–" for r in rows.itertuples()]
    return shown


def on_networks(studies: list[Published]) -> pd.DataFrame:
    """What :data:`METHOD` dominates on the network of each study beside both weighted sums: a row per stage, in words.

    Differences are in points of hypervolume, seed by seed, with Student's interval, as in :func:`dominated`.
    """
    rows = []
    for study in studies:
        found, network = study.rows("hypervolume"), study.content["settings"]["network"]["name"]
        for stage in moo_training.STAGES:
            against = {rival: _against(found, rival).loc[stage] for rival in RIVALS}
            shares = against[RIVALS[0]].loc[[METHOD, *RIVALS]]
            row = {"network": network, "seeds": int(shares["seeds"].iloc[0]), "stage": stage}
            row |= {f"{way} %": plus_minus(100 * each["mean"], 100 * each["sd"], 1) for way, each in shares.iterrows()}
            over = {f"over the {rival}": moo_hypervolume.said(each.loc[METHOD]) for rival, each in against.items()}
            rows.append(row | over)
    return pd.DataFrame(rows)


def said_on_networks(studies: list[Published]) -> str:
    """Of each study's network and stage the verdicts on :data:`METHOD` over each of :data:`RIVALS`, in words."""
    said = []
    for study in studies:
        found = study.rows("hypervolume")
        verdicts = [
            f"{stage} {' / '.join(_against(found, rival).loc[(stage, METHOD), 'verdict'] for rival in RIVALS)}"
            for stage in moo_training.STAGES
        ]
        said.append(f"{study.content['settings']['network']['name']}: {', '.join(verdicts)}")
    return f"{METHOD} over the {RIVALS[0]}, and over the {RIVALS[1]}: {'; '.join(said)}"


def front(chosen: pd.DataFrame) -> pd.DataFrame:
    """A row per way and sparsity of the fine-tuned networks of ``chosen``, in its order: means over the seeds.

    Returns:
        way, sparsity, bytes, test_accuracy (0…1), test_accuracy_sd (NaN of one seed), front: whether on the Pareto
        front of bytes and accuracy. That front has all sparsities.
    """
    groups = chosen.dropna(subset="bytes").groupby(["way", "sparsity"], sort=False)
    mean = groups[["bytes", "test_accuracy"]].mean().reset_index()
    mean["test_accuracy_sd"] = groups["test_accuracy"].std().to_numpy()
    mean["front"] = statistics.pareto(mean, "bytes", "test_accuracy")
    return mean


def rival_of(score: pd.Series, best: dict[str, float]) -> str:
    """The weighted sum that is the better one on validation images (:func:`scores`)."""
    return max(RIVALS, key=lambda way: score[way, best[way]])


def at_an_end(ways: list[Way], best: dict[str, float]) -> str:
    """The ways whose best value is the first or last of at least three, with commas, or "none"."""
    found = [w.label for w in ways if len(w.values) > 2 and best[w.label] in (w.values[0], w.values[-1])]
    return ", ".join(found) or "none"


def highest(chosen: pd.DataFrame, sparsity: float) -> str:
    """The three ways of the highest mean test accuracy at ``sparsity``, stage by stage, in words."""

    def of(stage: str) -> str:
        part = chosen[(chosen["stage"] == stage) & (chosen["sparsity"] == sparsity)]
        mean = part.groupby("way")["test_accuracy"].mean().sort_values(ascending=False)
        return f"{stage}: " + ", ".join(f"{way} {accuracy:.1%}" for way, accuracy in mean.head(3).items())

    return "; ".join(map(of, moo_training.STAGES))


def most(hypervolume: pd.DataFrame, stage: str, rival: str) -> str:
    """Who dominates most after ``stage``, and who more or less than ``rival`` for certain, in words."""
    rows = _against(hypervolume, rival).loc[stage]
    sure = {verdict: ", ".join(rows.index[rows["verdict"] == verdict]) or "none" for verdict in ("more", "less")}
    row = rows.loc[METHOD]
    first = f"{stage}, most by {rows['mean'].idxmax()} ({rows['mean'].max():.1%})"
    gain = f"{METHOD} {100 * row['gain']:+.1f} points over the {rival} ({row['verdict']})"
    return f"{first}; {gain}; more than that for certain: {sure['more']}; less: {sure['less']}"


def lift(hypervolume: pd.DataFrame, way: str) -> float:
    """Points of the plane that fine-tuning adds to ``way``, mean over the seeds."""
    one_shot, tuned = (_against(hypervolume, RIVALS[0]).loc[(s, way), "mean"] for s in moo_training.STAGES)
    return 100 * (tuned - one_shot)


def least_likeness(training: pd.DataFrame, tau: float) -> float:
    """The least cosine, over epochs, of the thesis's direction and of the weighted sum with λ = ``tau``."""
    cosines = training[training["way"] == METHOD]["cosine_l1"]
    return min((moo_hypervolume.likeness(tau, cosine) for cosine in cosines), default=float("nan"))


def on_front(rows: pd.DataFrame, classes: int) -> str:
    """The ways on the front of :func:`front`, above twice chance, with commas."""
    return ", ".join(dict.fromkeys(rows[rows["front"] & (rows["test_accuracy"] > 2 / classes)]["way"]))


def claims_of(hypervolume: pd.DataFrame, steps: pd.DataFrame) -> dict[str, list[claims.Measured]]:
    """What the thesis's method says of its claims, against each of the weighted sums."""
    found = {}
    for key, stage in zip(("moo_one_shot", "moo_tuned"), moo_training.STAGES, strict=True):
        found[key] = []
        for rival in RIVALS:
            row = _against(hypervolume, rival).loc[(stage, METHOD)]
            points = 100 * row[["gain", "low", "high"]].astype(float)
            found[key].append(claims.Measured(*points, n=int(row["seeds"]), against=rival))
    raised = steps[steps["way"] == METHOD][RAISES].to_numpy()
    return found | {"moo_common": [claims.Measured(raised.max() if raised.size else float("nan"))]}


def _against(hypervolume: pd.DataFrame, rival: str) -> pd.DataFrame:
    """The rows against ``rival``, by stage and way."""
    return hypervolume[hypervolume["rival"] == rival].set_index(["stage", "way"])
