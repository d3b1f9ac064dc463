# The map of the study: one rule a technique, the tree of combinations as wildcards.
import json
import sys
from pathlib import Path

from snakemake.utils import min_version

sys.path.insert(0, workflow.basedir)
from engine import check, code, parameters
from studylib import sweep

min_version("9.0")

PROFILE = config.get("profile", "digits")
ROOT = config.get("root", "")
SECTIONS = parameters.load(PROFILE, config.get("seeds", ""), config.get("stages", ""), ROOT)
DATA = config.get("data") or check.data_of(SECTIONS)  # what the images are; study.py, which loads them, hands it on
NAME = parameters.run_name(PROFILE, ROOT)
STUDY, NOTEBOOKS = SECTIONS["study"], parameters.notebooks()
PATHS = {stage: path.relative_to(parameters.ROOT).as_posix() for stage, path in NOTEBOOKS.items()}  # a moved run stays valid
STAGES, SEEDS, NODES = STUDY["stages"], STUDY["seeds"], sweep.nodes(STUDY["stages"])
RUN = f"runs/{NAME}"
FILES = ["model.safetensors", "model.json", "model.slnc", "metrics.json", "test_logits.safetensors"]
CHAPTERS = {NOTEBOOKS[stage].stem: stage for stage in ["teacher", *STAGES] if stage in STUDY["chapters"]}
COMPARES = {"svd": {"student": "teacher-kd", "pruned": "teacher-kd-imp"}, "int8": {"pruned": "teacher-imp"}}
REFERENCE = [f"{RUN}/{sweep.NNCODEC}"] if Path(RUN, sweep.NNCODEC).exists() else []  # of make nncodec, if it was run
COMPARISON = f"{RUN}/chapters/{NOTEBOOKS['moo'].stem}"  # of ways to train, a chapter without nodes
FRONTIER = f"{RUN}/chapters/{NOTEBOOKS['frontier'].stem}"  # networks made as small as can be, another such
LAST = f"{RUN}/chapters/{NOTEBOOKS['sweep'].stem}"  # the sweep's own chapter
CORES = workflow.resource_settings.cores or 4  # on a cluster, which has no such number: four of one machine
# through the run's warm process where there is one; what it starts dies with Snakemake even on SIGKILL
PYTHON = "exec python -I -S engine/client.py"
EXECUTE = f"{PYTHON} engine/execute.py"


def given(stage, lesson=False):
    """The parameters of a stage that its section and the study fix, as JSON; its lesson's only if that is run."""
    common = {key: STUDY[key] for key in sorted(parameters.FROM_STUDY)}
    own = {key: value for key, value in SECTIONS[stage].items() if lesson or not key.startswith("lesson_")}
    return json.dumps(common | own, sort_keys=True)


def code_of(stage, lesson=False):
    """A hash of a stage's code and of the published files that its section names."""
    return code.digest(NOTEBOOKS[stage], lesson=lesson) + code.of_files(SECTIONS[stage])


def read_by_chapter(stage):
    """Parameter → folder of the node that a chapter reads: its parent, its own node, and what its lesson compares."""
    if stage == "teacher":
        return {"made": f"{RUN}/seed{SEEDS[0]}/teacher"}
    nodes = {"parent": "teacher", "made": f"teacher-{stage}"} | COMPARES.get(stage, {})
    return {key: f"{RUN}/seed{SEEDS[0]}/{node}" if node in NODES else "" for key, node in nodes.items()}


NODE = {node: f"{RUN}/seed{SEEDS[0]}/{node}" for node in NODES}
TAUGHT_BY = {"parent": NODE["teacher"], "student": NODE.get("teacher-kd", "")}


def files(folder):
    return [f"{folder}/{name}" for name in FILES]


wildcard_constraints:
    seed=r"\d+",


rule all:
    # every node is named: were it only the table, a failed rerun could lose models and nothing be done about it
    input:
        f"{RUN}/sweep.csv",
        expand(RUN + "/seed{seed}/{node}/{file}", seed=SEEDS, node=NODES, file=FILES),
        expand(RUN + "/chapters/{chapter}/metrics.json", chapter=CHAPTERS),
        f"{COMPARISON}/comparison.csv" if "moo" in STUDY["chapters"] else [],
        f"{LAST}/effects.csv" if "sweep" in STUDY["chapters"] and STAGES else [],  # one node has nothing to compare
        f"{FRONTIER}/frontier.csv" if "frontier" in STUDY["chapters"] else [],
    message:
        "every node, every chapter and the table"


rule teacher:
    output:
        files(RUN + "/seed{seed}/teacher"),
    params:
        data=DATA,
        notebook=PATHS["teacher"],
        given=given("teacher"),
        code=code_of("teacher", lesson=False),
        out=RUN + "/seed{seed}/teacher",
    log:
        RUN + "/seed{seed}/teacher/log.txt",
    priority: len(STAGES) + 1
    threads: STUDY["threads"]
    message:
        "{params.out}"
    shell:
        EXECUTE + " {params.notebook:q} {params.out}/notebook.ipynb --parameters {params.given:q} --skip lesson"
        " --set out={params.out} seed={wildcards.seed} threads={threads} > {log} 2>&1"


for i, stage in enumerate(STAGES):

    rule:
        name:
            stage
        input:
            files(RUN + "/seed{seed}/{parent}"),
        output:
            files(RUN + "/seed{seed}/{parent}-" + stage),
        params:
            data=DATA,
            notebook=PATHS[stage],
            given=given(stage),
            code=code.digest(NOTEBOOKS[stage], lesson=False),
            parent=RUN + "/seed{seed}/{parent}",
            out=RUN + "/seed{seed}/{parent}-" + stage,
        log:
            RUN + "/seed{seed}/{parent}-" + stage + "/log.txt",
        wildcard_constraints:
            parent="teacher" + "".join(f"(-{earlier})?" for earlier in STAGES[:i]),  # only earlier stages precede
        priority: len(STAGES) - i  # what most stands on goes first, so that no core is idle in the end
        threads: STUDY["threads"]
        message:
            "{params.out}"
        shell:
            EXECUTE + " {params.notebook:q} {params.out}/notebook.ipynb --parameters {params.given:q} --skip lesson"
            " --set parent={params.parent} out={params.out} seed={wildcards.seed} threads={threads} > {log} 2>&1"


for chapter, stage in CHAPTERS.items():

    rule:
        # the chapter as a reader has it, lesson and all, once a profile: about the first seed's nodes
        name:
            f"chapter_{stage}"
        input:
            [file for folder in read_by_chapter(stage).values() if folder for file in files(folder)],
            ancient(f"{RUN}/latency.json"),  # which wants every core: chapters wait for it, and are not made again by it
        output:
            files(f"{RUN}/chapters/{chapter}"),
        params:
            data=DATA,
            notebook=PATHS[stage],
            given=given(stage, lesson=True),
            code=code.digest(NOTEBOOKS[stage]),
            reads=" ".join(f"{key}={folder}" for key, folder in read_by_chapter(stage).items()),
            out=f"{RUN}/chapters/{chapter}",
            seed=SEEDS[0],
        priority: 1 if stage == "imp" else 0  # the longest first
        log:
            f"{RUN}/chapters/{chapter}/log.txt",
        threads: STUDY["threads"]
        message:
            "{params.out}"
        shell:
            EXECUTE + " {params.notebook:q} {params.out}/notebook.ipynb --parameters {params.given:q}"
            " --set {params.reads} out={params.out} seed={params.seed} threads={threads} > {log} 2>&1"


rule chapter_moo:
    input:
        files(f"{RUN}/seed{SEEDS[0]}/teacher"),
        ancient(f"{RUN}/latency.json"),
    output:
        f"{COMPARISON}/comparison.csv",
    params:
        data=DATA,
        notebook=PATHS["moo"],
        given=given("moo", lesson=True),
        code=code.digest(NOTEBOOKS["moo"]),
        parent=f"{RUN}/seed{SEEDS[0]}/teacher",
        out=COMPARISON,
        seed=SEEDS[0],
    priority: 1
    log:
        f"{COMPARISON}/log.txt",
    threads: STUDY["threads"]
    message:
        "{params.out}"
    shell:
        EXECUTE + " {params.notebook:q} {params.out}/notebook.ipynb --parameters {params.given:q}"
        " --set parent={params.parent} out={params.out} seed={params.seed} threads={threads} > {log} 2>&1"


rule chapter_frontier:
    input:
        [file for folder in TAUGHT_BY.values() if folder for file in files(folder)],
        ancient(f"{RUN}/latency.json"),
    output:
        f"{FRONTIER}/frontier.csv",
    params:
        data=DATA,
        notebook=PATHS["frontier"],
        given=given("frontier", lesson=True),
        code=code_of("frontier", lesson=True),
        reads=" ".join(f"{key}={folder}" for key, folder in TAUGHT_BY.items()),
        out=FRONTIER,
        seed=SEEDS[0],
    priority: 2  # the longest of all
    log:
        f"{FRONTIER}/log.txt",
    threads: STUDY["threads"]
    message:
        "{params.out}"
    shell:
        EXECUTE + " {params.notebook:q} {params.out}/notebook.ipynb --parameters {params.given:q}"
        " --set {params.reads} out={params.out} seed={params.seed} threads={threads} > {log} 2>&1"


rule latency:
    # with every core to itself: two jobs side by side would spoil it
    input:
        expand(RUN + "/seed{seed}/{node}/{file}", seed=SEEDS, node=NODES, file=FILES),
    output:
        f"{RUN}/latency.json",
    params:
        nodes=[f"{RUN}/seed{SEEDS[0]}/{node}" for node in NODES],
        given=SECTIONS["latency"],
        code=code.digest(parameters.ROOT / "engine" / "latency.py"),
    log:
        f"{RUN}/latency.txt",
    threads: CORES
    message:
        "{output}"
    shell:
        PYTHON + " engine/latency.py {output} {params.nodes} --batch {params.given[batch]}"
        " --repeats {params.given[repeats]} --compiled $(echo {params.given[compiled]} | tr TF tf)"
        " --threads {threads} > {log} 2>&1"


rule sweep:
    input:
        expand(RUN + "/seed{seed}/{node}/{file}", seed=SEEDS, node=NODES, file=FILES),
        f"{RUN}/latency.json",
        REFERENCE,
    output:
        f"{RUN}/sweep.csv",
    params:
        notebook=PATHS["sweep"],
        given=json.dumps({"seeds": SEEDS, "stages": STAGES, "profile": NAME}),
        code=code.digest(NOTEBOOKS["sweep"], lesson=False),
        run=RUN,
    priority: len(STAGES) + 2  # what readers wait for; chapters come after it
    log:
        f"{RUN}/sweep.txt",
    message:
        "{output}"
    shell:
        EXECUTE + " {params.notebook:q} {params.run}/sweep.ipynb --parameters {params.given:q} --skip lesson"
        " --set run={params.run} out={params.run} > {log} 2>&1"


rule chapter_sweep:
    # the controls are trained by the teacher's own recipe
    input:
        f"{RUN}/sweep.csv",
    output:
        f"{LAST}/effects.csv",
    params:
        data=DATA,
        notebook=PATHS["sweep"],
        given=json.dumps(
            {k: v for k, v in json.loads(given("teacher")).items() if k in parameters.types_of(NOTEBOOKS["sweep"])}
            | SECTIONS["sweep"]
            | {"seeds": SEEDS, "stages": STAGES, "profile": NAME}
        ),
        code=code.digest(NOTEBOOKS["sweep"]),
        run=RUN,
        out=LAST,
    priority: 1
    log:
        f"{LAST}/log.txt",
    threads: STUDY["threads"]
    message:
        "{params.out}"
    shell:
        EXECUTE + " {params.notebook:q} {params.out}/notebook.ipynb --parameters {params.given:q}"
        " --set run={params.run} out={params.out} threads={threads} > {log} 2>&1"
