"""What the paper says beside what published CIFAR-10 studies measured, by chapters or, where none answers, by nodes."""

import pandas as pd

from engine.publish.published import Figures
from engine.settings import chapters
from studylib.experiments.frontier_published import RESTORED, another_network, teacher_kind
from studylib.results import claims, tables, verdicts

CENT = 0.005  # of what is measured in points or %, two decimals are said


def claims_table(there: Figures) -> str:
    """Paper says, we measured, verdict: every claim that a published CIFAR-10 study answers, by chapter and study.

    What a chapter would say that a study has not run, its published nodes say where they can; they also put an
    interval behind a difference that a chapter has without.
    """
    said = [row | {"study": study} for study in there.on_papers_data for row in _of_study(there, study)]
    if not said:
        return "No chapter on CIFAR-10 is published."
    columns = ["chapter", *verdicts.COLUMNS, "study"]
    table = pd.DataFrame(said)[columns].sort_values(["chapter", "study"], kind="stable")
    alike = table.groupby(columns[:-1], sort=False)["study"].agg(", ".join)  # what several found, in one row
    return tables.markdown_rows(alike.reset_index())


def _of_study(there: Figures, study: str) -> list[dict]:
    about, by_nodes, rows = there.studies[study], {}, []
    other = another_network(about)
    if teacher_kind(about) != RESTORED:  # whose teacher is another study's file
        by_nodes = verdicts.of_nodes(there.nodes(study, slice(1)).set_index("node"), about["data"]["test"])
    for key, claim in claims.CLAIMS.items():
        if claim.chapter not in chapters.declared():
            continue  # of the audit, which has the paper's figures alone
        number = chapters.declared()[claim.chapter].name[:2]
        where, node, found = number, by_nodes.get(key), there.measured(study, claim.chapter).get(key, [])
        if node and not found:
            where, found = f"{number}, by its nodes", [node]
        elif node and len(found) == 1 and found[0].low != found[0].low and abs(found[0].value - node.value) < CENT:
            where, found = f"{number}, interval by its nodes" if node.low == node.low else number, [node]
        rows += [{"chapter": where, **verdicts.row(claim, each, claims.PAPER_DATA, other)} for each in found]
    return rows
