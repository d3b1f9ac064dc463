"""What the first page says of all that is published: numbers of nodes, smallest files, a finding of each chapter."""

import dataclasses
import math

import pandas as pd

from studylib.experiments import survey_told, sweep_narrower
from studylib.experiments.frontier_published import KINDS
from studylib.experiments.generative_told import BESIDE, beside_of
from studylib.experiments.moo_ways import METHOD, RIVALS
from studylib.experiments.published import Figures
from studylib.results import claims, statistics, verdicts
from studylib.tree import names

HELD = (0.85, 0.9)  # validation accuracies; the smallest file is named that has at least so much
LATER = "digits"  # the study whose chapters of no CIFAR-10 study are told
DATA = {
    **{"cifar10": "CIFAR-10", "cifar10_10k": "10,000 images of CIFAR-10"},
    **{"mnist_5k": "5,000 images of MNIST", "pydoc": "Python's help pages"},
}
WORDS = {statistics.HELP: "better", statistics.HURT: "worse", statistics.UNKNOWN: "neither clearly better nor worse"}
INT8 = f"{names.TEACHER}-int8"


def numbers(there: Figures, study: str) -> dict:
    """What the templates of the first page are filled with; empty where no node of ``study`` is published.

    Returns:
        percent, kb, saved, gain: node → mean over the seeds. Test accuracy (%), file (kB), % saved, points gained.
        origin: data set and number of seeds of those, in words.
        least: the smallest file for each of :data:`HELD`, as far as there is one: held (%), bytes, test_accuracy, name.
        Then what a chapter found, None where it is not published: see the function of that name.
    """
    rows = there.nodes(study)
    if rows.empty:
        return {}
    nodes, about = rows.groupby("node").mean(numeric_only=True), there.studies[study]
    percent, kb = 100 * nodes["test_accuracy"], nodes["bytes_file"] / 1000
    saved, gain = 100 * (1 - kb / kb[names.TEACHER]), percent - percent[names.TEACHER]
    found = pd.DataFrame({"percent": percent, "kb": kb, "saved": saved, "gain": gain}).to_dict()
    found |= {"origin": origin(about["data"]["name"], rows["seed"].nunique()), "least": least(there)}
    found |= {"common": common(there, study), "standard": standard(there), "survey": survey(there)}
    found |= {"text": generative(there, "gpt"), "images": generative(there, "vae")}
    return found | {"screening": screening(there), "controller": controller(there), "federated": federated(there)}


def origin(data: str, n: int) -> str:
    """A data set and how many seeds, in words."""
    return f"{DATA.get(data, data)}, {f'n = {n}' if n > 1 else 'one seed'}"


def said(found: claims.Measured, unit: str, where: str) -> str:
    """A value, in brackets its interval and where it is from."""
    text = verdicts.text(dataclasses.replace(found, n=1), unit).replace(claims.PLANE, "points of hypervolume")
    return f"{text.removesuffix(')')}; {where})" if text.endswith(")") else f"{text} ({where})"


def least(there: Figures) -> list[dict]:
    """The smallest CIFAR-10 file that has each of :data:`HELD` on validation images."""
    found, files = [], there.files.sort_values("bytes", kind="stable")
    for held in HELD:
        enough = files[files["val_accuracy"] >= held].head(1)
        found += [{"held": 100 * held} | row for row in enough.to_dict("records")]
    return found


def common(there: Figures, study: str) -> dict | None:
    """Chapter 6: common descent before fine-tuning, beside the weighted sum that it does worst against.

    Returns:
        said: the value and its interval, in words.
        word: of :data:`WORDS`.
    """
    measured = there.measured(study, "moo").get("moo_one_shot", [])
    if not measured:
        return None
    lowest, unit = min(measured, key=lambda each: each.value), claims.CLAIMS["moo_one_shot"].unit
    word = WORDS[statistics.judge((lowest.low, lowest.high))]
    return {"said": said(lowest, unit, origin(_data(there, study, "moo"), lowest.n)), "word": word}


def controller(there: Figures) -> str:
    """Chapter 14: points of hypervolume that networks pruned by a controller have over narrower ones.

    Of each study that has it, in words; empty where none is published.
    """
    found = []
    for study in there.studies:
        for each in there.measured(study, "controller").get("controller_more", []):
            if each.against == "narrow":
                found.append(said(each, "points", origin(_data(there, study, "controller"), each.n)))
    return ", ".join(found)


def standard(there: Figures) -> dict | None:
    """Chapter 6 on standard networks: common descent beside each weighted sum, at each stage.

    Returns:
        networks, all, more, less: how many networks and comparisons, and those in which it is better or worse.
        origin: data set and number of seeds.
    """
    found, data = [], set()
    for study in there.studies:
        chapter = there.chapter(study, "moo")
        if chapter.get("settings", {}).get("network", {}).get("name"):
            rows = there.rows(study, "moo", "hypervolume")
            found.append(rows[(rows["way"] == METHOD) & rows["rival"].isin(RIVALS)].assign(study=study))
            data.add(_data(there, study, "moo"))
    if not found:
        return None
    rows = pd.concat(found)
    counts, where = rows["verdict"].value_counts(), " and ".join(sorted(data))
    return {
        **{"networks": rows["study"].nunique(), "all": len(rows)},
        **{"more": counts.get("more", 0), "less": counts.get("less", 0)},
        "origin": origin(where, int(rows["seeds"].min())),
    }


def survey(there: Figures) -> dict | None:
    """Chapter 9: how many techniques, how many of them beat narrower networks by network, and where that is from."""
    rows = there.rows(LATER, "survey", "techniques")
    if rows.empty:
        return None
    table = survey_told.at_equal_bytes(rows)
    table = table[~table["technique"].isin(list(survey_told.ENDS))]  # which end the narrower networks' lines
    beat = table.assign(beat=table["verdict"] == sweep_narrower.BEATS).groupby("network", sort=False)["beat"].sum()
    named = {KINDS[network.partition(" ")[0]]: int(count) for network, count in beat.items()}
    where = origin(_data(there, LATER, "survey"), rows["seed"].nunique())
    return {"techniques": table["technique"].nunique(), "beat": named, "origin": where}


def generative(there: Figures, chapter: str) -> dict | None:
    """Chapters 10 and 11: what int8 saves of a network that is no classifier, and whether combinations are worth it.

    Returns:
        saved, more: of the file, and how far bits rise (%).
        beat: how many combinations need fewer bits than a narrower network of as many bytes, in words.
        origin: data set and number of seeds.
    """
    rows = there.rows(LATER, chapter, "combinations")
    if rows.empty or INT8 not in set(rows["node"]):
        return None
    size, bits = (rows.pivot(index="seed", columns="node", values=name) for name in ("bytes", "test_bits"))
    saved, more = (100 * (each[INT8] / each[names.TEACHER] - 1).mean() for each in (size, bits))
    alone, seeds = there.rows(LATER, chapter, "narrower"), rows["seed"].nunique()
    count = int((beside_of(rows, alone)["verdict"] == BESIDE[statistics.HELP]).sum())
    beat = f"{count or 'no'} combination{'s beat' if count > 1 else ' beats'} a narrower network"
    return {"saved": -saved, "more": more, "beat": beat, "origin": origin(_data(there, LATER, chapter), seeds)}


def screening(there: Figures) -> str:
    """Chapter 12: what workers save by discarding features alone, in words; empty where it is not published."""
    measured = there.measured(LATER, "screening").get("bytes_strict", [])
    return "".join(
        said(each, "%", f"n = {each.n} pairs of problem and λ") for each in measured if not math.isnan(each.value)
    )


def federated(there: Figures) -> dict | None:
    """Chapter 13: at how many splits of images over clients (all) a teacher is shown to help (more)."""
    measured = there.measured(LATER, "federated").get("federated_helps", [])
    if not measured:
        return None
    where = origin(_data(there, LATER, "federated"), measured[0].n)
    return {"all": len(measured), "more": sum(each.low > 0 for each in measured), "origin": where}


def _data(there: Figures, study: str, chapter: str) -> str:
    """The data set of a published chapter: its own where it says so, else its study's."""
    return there.chapter(study, chapter)["about"].get("data", there.studies[study]["data"])["name"]
