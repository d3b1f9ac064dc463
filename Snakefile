# The map of the study: one rule a technique, the tree of combinations as wildcards, one rule a chapter.
import json
import sys
from pathlib import Path

from snakemake.utils import min_version

sys.path.insert(0, workflow.basedir)
from engine.run import code
from engine.settings import chapters, check, parameters
from engine.settings.reading import ROOT
from studylib.tree import names

min_version("9.0")

PROFILE = config.get("profile", "digits")
VARIANT = config.get("variant", "")
SECTIONS = parameters.load(PROFILE, config.get("seeds", ""), config.get("stages", ""), VARIANT)
DATA = config.get("data") or check.data_of(SECTIONS)  # what the images are; study.py, which loads them, hands it on
NAME = parameters.run_name(PROFILE, VARIANT)
DECLARED, STUDY = chapters.declared(), SECTIONS["study"]
PATHS = {key: each.notebook.relative_to(ROOT).as_posix() for key, each in DECLARED.items()}  # a moved run stays valid
TEACHER, TABLE, STAGES, SEEDS = chapters.root(), chapters.root("table"), STUDY["stages"], STUDY["seeds"]
NODES = names.nodes(STAGES)
RUN = f"runs/{NAME}"
TABLES = {RUN: SEEDS}  # folder of a table → its seeds
if len(SEEDS) > parameters.EARLY:  # study.py has Snakemake make the nodes of the first before others
    TABLES[f"{RUN}/early"] = SEEDS[: parameters.EARLY]
FILES = ["model.safetensors", "model.json", "model.slnc", "metrics.json", "test_logits.safetensors"]
CHAPTERS = [key for key in DECLARED if key in STUDY["chapters"]]
APART = [key for key, each in DECLARED.items() if each.extra and key not in CHAPTERS]  # run where they are named
REFERENCE = [f"{RUN}/{names.NNCODEC}"] if Path(RUN, names.NNCODEC).exists() else []  # of make nncodec, if it was run
CORES = workflow.resource_settings.cores or 4  # on a cluster, which has no such number: four of one machine
# through the run's warm process where there is one; what it starts dies with Snakemake even on SIGKILL
PYTHON = "exec python -I -S engine/run/client.py"
EXECUTE = f"{PYTHON} engine/run/execute.py"


def given(key, chapter=False, seeds=SEEDS):
    """The parameters of a notebook that its section and the study fix, as JSON; its chapter's only if that is run."""
    own = dict(SECTIONS[key]) if chapter else parameters.of_node(key, SECTIONS)
    study = {name: STUDY[name] for name in ("dataset", "device")}
    if DECLARED[key].role == "choice":
        own["technique"] = key
    if DECLARED[key].role == "table":
        own |= {"seeds": seeds, "stages": STAGES, "profile": NAME}
    return json.dumps(own | {"study": study, "published": ""}, sort_keys=True)


def code_of(key, chapter=False):
    """A hash of a notebook's code and of the published files that its section names."""
    return code.digest(DECLARED[key].notebook, lesson=chapter) + code.of_files(SECTIONS[key])


def files(folder):
    return [f"{folder}/{name}" for name in FILES]


def node(name):
    """The folder of a node of the first seed; empty where the run has none of that name."""
    return f"{RUN}/seed{SEEDS[0]}/{name}" if name in NODES else ""


def read_by(key):
    """Parameter → folder of the node that a chapter reads: its parent, its own node, and what it declares besides."""
    own = {"root": {"reuse": TEACHER}, "technique": {"parent": TEACHER, "reuse": f"{TEACHER}-{names.part(key)}"}}
    reads = own.get(DECLARED[key].role, {}) | DECLARED[key].reads
    return {parameter: node(name) for parameter, name in reads.items()}


def folder_of(key):
    return f"{RUN}/chapters/{DECLARED[key].name}"


wildcard_constraints:
    seed=r"\d+",


rule all:
    # every node is named: were it only the table, a failed rerun could lose models and nothing be done about it
    input:
        [f"{folder}/sweep.csv" for folder in TABLES],
        f"{RUN}/latency.json",
        expand(RUN + "/seed{seed}/{node}/{file}", seed=SEEDS, node=NODES, file=FILES),
        [f"{folder_of(key)}/chapter.json" for key in CHAPTERS],
    message:
        "every node, every chapter and the table"


for i, stage in enumerate([TEACHER, *STAGES]):
    # {parent} is a node, or of the root nothing; only earlier stages precede
    OF = RUN + "/seed{seed}/" + (TEACHER if stage == TEACHER else "{parent}-" + names.part(stage))
    FROM = RUN + "/seed{seed}/{parent}"

    rule:
        name:
            stage
        input:
            [] if stage == TEACHER else files(FROM),
        output:
            files(OF),
        params:
            data=DATA,
            notebook=PATHS[stage],
            given=given(stage),
            code=code_of(stage),
            parent="" if stage == TEACHER else f"parent={FROM}",
            out=OF,
        log:
            OF + "/log.txt",
        wildcard_constraints:
            parent=TEACHER + "".join(f"(-{names.part(earlier)})?" for earlier in STAGES[: max(0, i - 1)]),
        priority: 1000 + len(STAGES) - i  # what most stands on goes first, so that no core is idle in the end
        threads: STUDY["threads"]
        message:
            "{params.out}"
        shell:
            EXECUTE + " {params.notebook:q} {params.out}/notebook.ipynb --parameters {params.given:q} --skip lesson"
            " --set {params.parent} out={params.out} study.seed={wildcards.seed} study.threads={threads} > {log} 2>&1"


for key in [*CHAPTERS, *APART]:

    rule:
        # the chapter as a reader has it, once a profile: about the first seed's nodes, or all of them
        name:
            f"chapter_{key}"
        input:
            [file for folder in read_by(key).values() if folder for file in files(folder)],
            f"{RUN}/sweep.csv" if DECLARED[key].role == "table" else [],
            # it wants every core: in a whole study chapters wait for it, and are not made again by it
            [] if config.get("alone") else ancient(f"{RUN}/latency.json"),
        output:
            f"{folder_of(key)}/chapter.json",
        params:
            data=DATA,
            notebook=PATHS[key],
            given=given(key, chapter=True),
            code=code_of(key, chapter=True),
            reads=" ".join(f"{name}={folder}" for name, folder in read_by(key).items())
            + (f"run={RUN}" if DECLARED[key].role == "table" else ""),
            out=folder_of(key),
            seed=SEEDS[0],
        priority: round(DECLARED[key].minutes)  # the longest first, and after all nodes
        log:
            f"{folder_of(key)}/log.txt",
        threads: STUDY["threads"]
        message:
            "{params.out}"
        shell:
            EXECUTE + " {params.notebook:q} {params.out}/notebook.ipynb --parameters {params.given:q}"
            " --set {params.reads} out={params.out} study.seed={params.seed} study.threads={threads} > {log} 2>&1"


rule latency:
    # with every core to itself: two jobs side by side would spoil it
    input:
        expand(RUN + "/seed{seed}/{node}/{file}", seed=SEEDS, node=NODES, file=FILES),
    output:
        f"{RUN}/latency.json",
    params:
        nodes=[f"{RUN}/seed{SEEDS[0]}/{node}" for node in NODES],
        given=SECTIONS["latency"],
        compiled=json.dumps(SECTIONS["latency"]["compiled"]),
        code=code.digest(ROOT / "studylib" / "tree" / "latency.py"),
    log:
        f"{RUN}/latency.txt",
    threads: CORES
    message:
        "{output}"
    shell:
        PYTHON + " -m studylib.tree.latency {output} {params.nodes} --batch {params.given[batch]}"
        " --repeats {params.given[repeats]} --compiled {params.compiled} --threads {threads} > {log} 2>&1"


for folder, seeds in TABLES.items():

    rule:
        name:
            "table" if seeds is SEEDS else "early_table"
        input:
            expand(RUN + "/seed{seed}/{node}/{file}", seed=seeds, node=NODES, file=FILES),
            [f"{RUN}/latency.json", *REFERENCE] if seeds is SEEDS else [],
        output:
            f"{folder}/sweep.csv",
        params:
            notebook=PATHS[TABLE],
            given=given(TABLE, seeds=seeds),
            code=code_of(TABLE),
            run=RUN,
            out=folder,
            seed=SEEDS[0],
        priority: 1001 + len(STAGES)  # what readers wait for; chapters come after it
        log:
            f"{folder}/sweep.txt",
        message:
            "{output}"
        shell:
            EXECUTE + " {params.notebook:q} {params.out}/sweep.ipynb --parameters {params.given:q} --skip lesson"
            " --set run={params.run} out={params.out} study.seed={params.seed} > {log} 2>&1"
