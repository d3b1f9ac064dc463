"""What the paper says beside what published CIFAR-10 studies measured, by chapters or, where none answers, by nodes."""

from pathlib import Path

import pandas as pd

from engine.publish import naming
from engine.settings import chapters
from studylib.disk.files import read_json
from studylib.results import claims, tables, verdicts
from studylib.tree.table import read_table

RESULTS_FILE = "results.csv"  # in figures/
CENT = 0.005  # of what is measured in points or %, two decimals are said


def claims_table(folder: Path) -> str:
    """Paper says, we measured, verdict: every claim that a published CIFAR-10 study answers, by chapter and profile.

    What a chapter would say that a profile has not run, its published nodes say where they can; they also put an
    interval behind a difference that a chapter has without.
    """
    said = []
    for path in sorted(folder.glob("*/about.json")):
        about = read_json(path)
        if about["data"]["name"] == claims.PAPER_DATA:
            said += [row | {"profile": path.parent.name} for row in _of_study(folder, path.parent.name, about)]
    if not said:
        return "No chapter on CIFAR-10 is published."
    columns = ["chapter", *verdicts.COLUMNS, "profile"]
    table = pd.DataFrame(said)[columns].sort_values(["chapter", "profile"], kind="stable")
    alike = table.groupby(columns[:-1], sort=False)["profile"].agg(", ".join)  # what several found, in one row
    return tables.markdown_rows(alike.reset_index())


def measured_of(study: Path) -> dict[str, dict[str, list[claims.Measured]]]:
    """Key of a chapter → claim → what that chapter measured, as the folder of a published study has it."""
    files = {key: study / f"{each.name}.json" for key, each in chapters.declared().items()}
    return {key: verdicts.from_json(read_json(file)["claims"]) if file.exists() else {} for key, file in files.items()}


def _of_study(folder: Path, profile: str, about: dict) -> list[dict]:
    known = measured_of(folder / profile)
    by_nodes = {}
    if naming.teacher_kind(profile) != naming.RESTORED:  # whose teacher is another profile's file
        nodes = read_table(folder / RESULTS_FILE).query("profile == @profile and seed == @about['seeds'][0]")
        by_nodes = verdicts.of_nodes(nodes.set_index("node"), about["data"]["test"])
    other, rows = naming.another_network(profile), []
    for key, claim in claims.CLAIMS.items():
        if claim.chapter not in known:
            continue  # of the audit, which has the paper's figures alone
        number, found = chapters.declared()[claim.chapter].name[:2], known[claim.chapter].get(key, [])
        where, node = number, by_nodes.get(key)
        if node and not found:
            where, found = f"{number}, by its nodes", [node]
        elif node and len(found) == 1 and found[0].low != found[0].low and abs(found[0].value - node.value) < CENT:
            where, found = f"{number}, interval by its nodes" if node.low == node.low else number, [node]
        for each in found:
            rows.append({"chapter": where, **verdicts.row(claim, each, claims.PAPER_DATA, other)})
    return rows
