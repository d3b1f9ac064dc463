"""The smallest files of generative networks that are nearly as good, of every published study, for a page."""

from studylib.experiments import generative_told as told
from studylib.experiments import gpt_told, vae_told
from studylib.experiments.published import Figures
from studylib.tree import names

CHAPTERS = {"gpt": (gpt_told, "bits per character"), "vae": (vae_told, "bits per dimension")}


def rows(there: Figures) -> list[dict]:
    """A row a study and chapter: the whole network beside the smallest of its combinations, as the chapter chose it."""
    found = []
    for key, (says, unit) in CHAPTERS.items():
        for study in there.studies:
            made = there.rows(study, key, "combinations")
            if not len(made):
                continue
            nodes = told.summary(made).set_index("node")
            name = there.chapter(study, key)["about"]["data"]["name"]
            whole, small = nodes.loc[names.TEACHER], nodes.loc[says.smallest(nodes.reset_index())]
            row = {"learns": f"{name}, n = {made['seed'].nunique()}", "unit": unit}
            row |= {"whole, kB": whole["bytes"] / 1000, "needs": f"{whole['test_bits']:.3f}"}
            row |= {"smallest nearly as good": told.short(small.name), "kB": small["bytes"] / 1000}
            row["costs"] = told.said([small["costs"], small["costs_low"], small["costs_high"]], 3)
            found.append(row)
    return found
