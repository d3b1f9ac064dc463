"""The explorer: every published network and file as rows, and the page that shows them.

python -m studylib.experiments.explorer FIGURES PAGE [--back PAGE NAME]
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from studylib.coding import codec, size
from studylib.data import sources
from studylib.disk.files import write_bytes
from studylib.experiments.frontier import Supervision
from studylib.experiments.frontier_marks import MARKS
from studylib.experiments.frontier_published import KINDS, RESTORED, TRAINED_ON, teacher_kind, teacher_name
from studylib.experiments.published import Figures
from studylib.networks import cost
from studylib.plots import explorer
from studylib.results import claims, tables
from studylib.tree import names, table

USUAL = {"in_channels": 3, "image_size": 32, "classes": 10}  # of a network whose spec does not say
FORMER = {"growth": "densenet", "width": "convnet"}  # kinds of network as chapter 8 once called them
AGAIN = "a published file, in float32 again"  # a teacher that its study has not trained
STUDENT = "distilled student"  # kind of network, beside those of KINDS


def rows(there: Figures) -> pd.DataFrame:
    """A row for each node and each small file of every published study: :data:`studylib.plots.explorer.COLUMNS`.

    A node of several seeds is one row, of their means. What a study has not published is NaN. A published file that
    several studies go on from is one row, under all their names.

    Raises:
        studylib.disk.files.CheckpointError, studylib.coding.codec.CodecError: a table or a file is damaged.
    """
    found = []
    for study, about in there.studies.items():
        models = [(name, of) for name, of in there.models.items() if of["profile"] == study]
        known = {of["node"]: (there.folder / "models" / name, of) for name, of in models}
        latest = [*_nodes(about, there.nodes(study))]
        for key, name in there.with_files:
            latest += _points(about, there.chapter(study, key), there.rows(study, key, name), known)
        for row in latest:
            of = known.get(row["node"], (None, {}))
            found.append(row | {"study": study, "data": about["data"]["name"]} | _file(study, about, row, *of))
    return _once(pd.DataFrame(found, columns=explorer.COLUMNS))


def _once(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each published file that several studies have restored; it names them all."""
    restored, same = rows["techniques"] == AGAIN, ["data", "node", "bytes", "accuracy", "validation"]
    studies = rows[restored].groupby(same)["study"].transform(explorer.BOTH.join)
    return rows.assign(study=studies.combine_first(rows["study"]))[~(restored & rows.duplicated(same))]


def _nodes(about: dict, nodes: pd.DataFrame) -> Iterator[dict]:
    """A row for each node of a study, ``nodes`` having one for each seed."""
    latency, teacher = about.get("latency", {}), teacher_name(about)
    how = f"batch of {latency.get('batch', '?')}, {'compiled' if latency.get('compiled') else 'not compiled'}, "
    how += f"threads: {latency.get('threads', '?')}, {', '.join(about.get('hardware', []))}"
    for row in table.summary(nodes).to_dict("records"):
        made = row["node"].split("-")[1:]
        restored = not made and teacher_kind(about) == RESTORED
        seeds = nodes.loc[nodes["node"] == row["node"], "seed"].tolist()
        yield {
            "node": row["node"],
            "folder": f"seed{min(seeds)}/{row['node']}",
            "network": f"student of {teacher}" if "kd" in made else teacher,
            "kind": STUDENT if "kd" in made else KINDS[about["teacher"]["name"]],
            "techniques": AGAIN if restored else tables.label(row["node"]) if made else "as trained",
            "distilled": "kd" in made,
            "pruned": "imp" in made or (restored and row["sparsity"] > 0),
            "factorized": "svd" in made,
            "bits": 8 if "int8" in made else 32,
            "zeros": 100 * row["sparsity"],
            "accuracy": 100 * row["test_accuracy"],
            "accuracy_sd": 100 * row["test_accuracy_sd"],
            "validation": 100 * row["val_accuracy"],
            "bytes": row["bytes_file"],
            "bytes_nonzero": row["bytes_nonzero"],
            "multiply_adds": row["multiply_adds"],
            "latency_ms": row["latency_ms"],
            "latency_of": how if row["latency_ms"] == row["latency_ms"] else "",
            "seeds": spans(seeds),
        }


def _points(about: dict, chapter: dict, points: pd.DataFrame, known: dict[str, tuple[Path, dict]]) -> Iterator[dict]:
    """A row for each small file of a study; of published files the paper's count and multiply-adds are measured."""
    taught = chapter.get("settings", {}).get("supervision", {}).get("alpha", Supervision().alpha) > 0
    for row in points.to_dict("records"):
        kind, network = _network(about, row["network"])
        pruned = [tables.TECHNIQUE_NAMES["imp"]] if row["sparsity"] > 0 else []
        taught_by = [tables.TECHNIQUE_NAMES["kd"]] if taught else []
        yield {
            "node": row["name"],
            "folder": f"chapters/{chapter['chapter']}/points/{row['name']}",
            "network": network,
            "kind": kind,
            "techniques": " + ".join([*taught_by, *pruned, f"{row['bits']:g} bits"]),
            "distilled": taught,
            "pruned": row["sparsity"] > 0,
            "factorized": False,
            "bits": int(row["bits"]),
            "zeros": 100 * row["zeros"],
            "accuracy": 100 * row["test_accuracy"],
            "validation": 100 * row.get("val_accuracy", math.nan),
            "bytes": row["bytes"],
            "seeds": spans(about["seeds"][:1]),
            **(_measured(known[row["name"]][0]) if row["name"] in known else {}),
        }


def _network(about: dict, network: str) -> tuple[str, str]:
    """Kind and name of one of chapter 8's networks, stored as ``teacher``, ``student``, ``densenet 6``, …"""
    kind, _, number = network.partition(" ")
    kind, teacher = FORMER.get(kind, kind), teacher_name(about)
    if kind == names.TEACHER:
        return KINDS[about["teacher"]["name"]], teacher + TRAINED_ON * (teacher_kind(about) == RESTORED)
    if kind == "student":
        return STUDENT, f"student of {teacher}"
    depth, _, width = number.rpartition("-")
    size = f"{'growth' if kind == 'densenet' else 'width'} {width}"
    return KINDS[kind], f"{KINDS[kind]}{'-' * bool(depth)}{depth} of {size}"


def _measured(file: Path) -> dict[str, int]:
    """What the network in a coded file has by the paper's count (bytes), and its multiply-adds."""
    model = codec.decode(file.read_bytes())
    args = {name: model.spec["args"].get(name, usual) for name, usual in USUAL.items()}
    return {
        "bytes_nonzero": size.accountings(model)["bytes_nonzero"],
        "multiply_adds": cost.multiply_adds(model, args),
    }


def _file(study: str, about: dict, row: dict, file: Path | None, listed: dict) -> dict[str, str]:
    """The published file of a row and the command that evaluates it. Of a mean also what its file is alone."""
    data = about["data"]["name"]
    named = "" if data == _first_like(data) else f' DATASET="{data}"'
    if file:
        of = f"seed {listed['seed']}: {listed['bytes']:,} bytes, {100 * listed['test_accuracy']:.2f} %"
        alone = "" if row["seeds"] == str(listed["seed"]) else of
        command = f"make evaluate MODEL=figures/models/{file.name}{named}"
        return {"file": file.name, "file_alone": alone, "command": command}
    profile, _, variant = study.partition("-")
    made = f"make study PROFILE={profile}" + f" VARIANT={variant}" * bool(variant)
    command = f"{made} && make evaluate MODEL=runs/{study}/{row['folder']}/{names.CODED}{named}"
    return {"file": "", "file_alone": "", "command": command}


def _first_like(data: str) -> str:
    """The first data set whose images and classes are like those of ``data``: the usual one of a command."""
    shapes = {name: (source.shape, source.classes) for name, source in sources.SOURCES.items()}
    return next((name for name, shape in shapes.items() if shape == shapes.get(data)), "")


def spans(seeds: list[int]) -> str:
    """Seeds in words, those in a row as a span: ``0–9``, ``0, 3–5``."""
    found = []
    for seed in sorted(set(seeds)):
        if found and found[-1][-1] == seed - 1:
            found[-1][1:] = [seed]
        else:
            found.append([seed])
    return ", ".join("–".join(map(str, span)) for span in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path, metavar="FIGURES", help="folder with published studies")
    parser.add_argument("page", type=Path, metavar="PAGE", help="HTML file to write")
    parser.add_argument("--back", nargs=2, metavar=("PAGE", "NAME"), help="what the page links back to")
    args = parser.parse_args()
    found = rows(Figures(args.figures))
    args.page.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(args.page, explorer.page(found, MARKS, claims.PAPER_DATA, back=args.back).encode())
    print(f"{args.page}: {len(found)} networks and files, {args.page.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
