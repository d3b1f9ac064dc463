"""README and docs/: short, plain, their links and commands good, their code run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import plain
import pytest
import shown
from projects import types_of
from ruamel.yaml import YAML

from engine.settings import chapters, parameters
from engine.settings.reading import FOLDER
from studylib import settings
from studylib.tree.table import COLUMNS

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
EMBEDDED = "## Add a technique"  # of extend.md: its code is run as a study of its own, see test_declared.py
EXAMPLE = "clip"  # the technique that is added there
VARIABLES = {"STUDY_DATA", "SNAKEMAKE_PROFILE"}  # of the environment


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """What the headings of a page are linked by, as code hosts make it of them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[str]:
    """Every call of make on a page: lines of its sh blocks, code spans of its text."""
    lines = [line for block in code_of(page, "sh") for line in block.splitlines()]
    spans = re.findall(r"`(make [^`]*)`", re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S))
    return [line.partition(" #")[0].strip() for line in [*lines, *spans] if line.startswith("make ")]


def runs() -> dict[str, tuple[str, str]]:
    """Name of a run → its profile and variant, of all that there can be."""
    profiles = sorted(path.stem for path in FOLDER.glob("*.yaml") if path != chapters.FILE)
    pairs = [(profile, variant) for profile in profiles for variant in ("", *parameters.variants(profile))]
    return {parameters.run_name(*pair): pair for pair in pairs}


def test_there_are_the_ten_pages_beside_the_readme():
    assert [page.stem for page in PAGES[1:]] == [
        "extend",
        "federated",
        "files",
        "glossary",
        "rerun",
        "results",
        "screening",
        "sources",
        "techniques",
        "why",
    ]
    linked = re.findall(r"\]\(docs/(\w+)\.md", text_of(README))
    assert set(linked) == {page.stem for page in PAGES[1:]}


@every_page
def test_links_and_pictures_lead_somewhere(page):
    found = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    wrong = []
    for link in found:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong and (page != README or len(found) > 10)


@every_page
def test_commands_are_targets_of_the_makefile_with_its_variables(page):
    makefile, found = text_of(ROOT / "Makefile"), commands(page)
    known = set(re.findall(r"^([A-Z]+) \?=", makefile, flags=re.M))
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.M))
    assert found or page.name in ("sources.md", "glossary.md", "extend.md", "techniques.md")
    for command in found:
        target, *given = shlex.split(command)[1:]
        assert target in targets, command
        assert {word.partition("=")[0] for word in given if "=" in word} <= known, command
        assert all("=" in word for word in given), command
        if "…" not in command:
            dry = subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, text=True, capture_output=True)
            assert dry.returncode == 0, dry.stderr


@every_page
def test_what_commands_ask_for_can_be_had(page):
    there = runs()
    for command in commands(page):
        if "…" in command:
            continue
        given = dict(word.split("=", 1) for word in shlex.split(command)[2:])
        run = parameters.run_name(given.get("PROFILE", "digits"), given.get("VARIANT", ""))
        assert run in there, command
        profile, variant = there[run]
        asked = {"seeds": given.get("SEEDS", ""), "stages": given.get("STAGES", ""), "variant": variant}
        sections = parameters.load(profile, **asked)  # names what is misspelt
        if "CHAPTERS" in given:
            assert parameters.chapters(sections, given["CHAPTERS"]), command
        assert all(given[name] in {*there, "published"} for name in ("A", "B") if name in given), command
        assert (ROOT / given.get("MODEL", "README.md")).is_file(), command


@every_page
def test_runs_that_are_named_exist(page):
    """A word in code that begins as a run's name and a hyphen do is the name of a run, a model or a node."""
    there = runs()
    profiles = {profile for profile, _ in there.values()}
    spans = re.findall(r"`([a-z]\w*-[\w.-]+)`", re.sub(r"\n## Earlier names\n.*", "", text_of(page), flags=re.S))
    named = [span for span in spans if span.partition("-")[0] in profiles and not span.endswith("-")]
    assert not [name for name in named if name not in there]


def test_every_profile_and_variant_has_its_row_in_the_page_on_running():
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|", text_of(ROOT / "docs" / "rerun.md"), flags=re.M)
    found = set()
    for name, of in rows:
        owners = re.findall(r"`(\w+)`", of)
        found |= {(owner, name) for owner in owners} or {(name, "")}
    assert found == set(runs().values())


def test_the_readme_says_what_was_not_run():
    (said,) = re.findall(r"^- Not run: (.*)$", text_of(README), flags=re.M)
    published = {path.parent.name for path in (ROOT / "figures").glob("*/nodes.csv")}
    proves_nothing = {name for name, (profile, _) in runs().items() if profile == "smoke"}
    assert re.findall(r"`([\w-]+)`", said) == sorted(set(runs()) - published - proves_nothing)


def test_what_papermill_is_handed_is_what_the_notebook_takes():
    (command,) = re.findall(r"^\S*papermill (.*?[^\\])$", text_of(ROOT / "docs" / "rerun.md"), flags=re.M | re.S)
    name, _, *rest = shlex.split(command.replace("\\\n", " "))
    given = {key: value for each in rest[1::2] for key, value in YAML(typ="safe").load(each).items()}
    assert set(rest[::2]) == {"-y"}
    types = types_of(ROOT / "notebooks" / name)
    declared = next(chapters.declared()[key] for key, path in chapters.notebooks().items() if path.name == name)
    assert set(given) <= set(types) and set(given) & set(declared.records) and given["published"] == ""
    for record in set(given) & set(declared.records):
        settings.read(declared.record(record), given[record], record)


RUN = [page for page in PAGES if code_of(page, "python") and page.stem != "why"]


def test_outputs_that_stand_on_a_page_are_those_of_its_code():
    page = text_of(ROOT / "docs" / "why.md")
    assert len(re.findall(r"^## \d\. ", page, flags=re.M)) == 5 and len(shown.BLOCK.findall(page)) == 6
    assert shown.shown(page) == page, "python tests/shown.py docs/why.md writes them anew"


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    own = re.sub(rf"^{EMBEDDED}$.*?(?=^## )", "", text_of(page), flags=re.M | re.S)
    blocks = re.findall(r"^```python\n(.*?)^```$", own, flags=re.M | re.S)
    elsewhere = text_of(page).partition(f"{EMBEDDED}\n")[2].partition("\n## ")[0]
    embedded = re.findall(r"^```python\n", elsewhere, flags=re.M)
    assert blocks and len(blocks) + len(embedded) == len(code_of(page, "python"))
    for name in ("runs", "figures"):  # as from the project's folder; what is written stays here
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "page.py").write_text("\n\n".join(blocks))
    environment = {"PATH": "", "PYTHONPATH": str(ROOT), "STUDY_ROOT": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_python_stands_only_where_it_is_run():
    assert {page.name for page in PAGES if code_of(page, "python")} == {
        "extend.md",
        "federated.md",
        "files.md",
        "screening.md",
        "techniques.md",
        "why.md",
    }
    tests = (ROOT / "tests" / "test_declared.py").read_text(encoding="utf-8")
    assert EMBEDDED.lstrip("# ") in tests and "extend.md" in tests


def test_glossary_entries_are_short_and_in_order():
    terms = text_of(ROOT / "docs" / "glossary.md").partition("\n## Words in names")[0]
    rows = re.findall(r"^\| (?!term|---)(.*?) \| (.*?) \|$", terms, flags=re.M)
    assert len(rows) > 40 and not [term for term, meaning in rows if plain.words(meaning) > 15]
    greek = str.maketrans({"α": "alpha", "δ": "delta", "τ": "tau"})
    order = [term.lower().translate(greek) for term, _ in rows]
    assert order == sorted(order) and len(set(order)) == len(order)


def test_every_column_of_the_table_has_its_meaning():
    rows = text_of(ROOT / "docs" / "files.md").partition("\n## The columns")[2]
    cells = re.findall(r"^\| ([\w,; ]+) \| .+ \|$", rows, flags=re.M)
    named = [name for cell in cells for name in re.split(r"[,;] ", cell)]
    assert sorted(named) == sorted(["column", *COLUMNS])


def test_a_technique_is_where_the_readme_says():
    assert "`studylib/techniques/<key>.py`" in text_of(README)
    for key in chapters.techniques():
        assert (ROOT / "studylib" / "techniques" / f"{key}.py").is_file()


def test_the_readme_shows_every_folder_with_a_comment():
    (tree,) = code_of(README, "text")
    shown: dict[str, list[str]] = {}
    for line in tree.splitlines():
        indent, name, _ = re.fullmatch(r"(  |)(\S+?)/? +(\S.*)", line).groups()
        if indent:
            shown[[*shown][-1]].append(name)
        else:
            shown[name] = []
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    folders = {path.partition("/")[0] for path in tracked.splitlines() if "/" in path} - {".ci"}
    assert set(shown) == folders | {"Snakefile", "Makefile"}
    packages = {
        top: {path.parent.name for path in (ROOT / top).glob("*/__init__.py")} for top in ("studylib", "engine")
    }
    assert set(shown["engine"]) == packages["engine"]
    assert set(shown["studylib"]) == packages["studylib"] | {"settings.py"}
    order = re.findall(r"^(\w+):", (ROOT / "studylib" / "__init__.py").read_text(encoding="utf-8"), flags=re.M)
    assert shown["studylib"] == ["settings.py", *order]  # a folder imports only those before it


EXAMPLES = {f"studylib/techniques/{EXAMPLE}.py", "studylib/networks/shallow.py"}  # which a reader writes


@every_page
def test_files_and_modules_that_are_named_exist(page):
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)
    folders = "studylib|engine|tests|notebooks|papermill_params|docs"
    paths = set(re.findall(rf"`((?:{folders})/[\w./]+)`", text)) - {
        f"studylib/techniques/{EXAMPLE}.py",
        "studylib/networks/shallow.py",
    }
    missing = {path for path in paths if not (ROOT / path).exists()} - {f"notebooks/09_{EXAMPLE}.ipynb"}
    modules = re.findall(r"`(studylib(?:\.\w+)+)`", text)
    missing |= {module for module in modules if not (ROOT / f"{module.replace('.', '/')}.py").exists()}
    assert not missing


@every_page
def test_there_are_no_gaps_left_to_fill(page):
    assert set(re.findall(r"\b[A-Z]{2,}_[A-Z]{2,}\b", text_of(page))) <= VARIABLES
    assert not re.search(r"\b(TODO|FIXME|TBD|XXX)\b", text_of(page))


@every_page
def test_sentences_are_plain(page):
    text = plain.without_generated(text_of(page))
    assert plain.long_sentences(text) == [] and plain.nested_sentences(text) == []


def test_a_long_sentence_is_found_wherever_it_stands():
    long = " ".join(["word"] * 21)
    for text in (f"Short. {long}.", f"- {long}", f"> {long}", f"# {long}", f"1. [{long}](page.md)", f"*{long}*"):
        assert len(plain.long_sentences(text)) == 1, text
    fine = " ".join(["word"] * 20)
    for text in (
        f"```\n{long}\n```",
        f"| a |\n|---|\n| {long} |",
        f"<!-- {long} -->",
        f"{fine}. T{fine[1:]}.",
        f"`{long}`",
    ):
        assert plain.long_sentences(text) == [], text


def test_sentences_end_where_readers_see_it():
    text = "By Huang et al. (2017), e.g. Figure 5. It costs 0.5 points (n = 3). `fit` ends. So C. Mountain, M.Sc.!"
    assert len(list(plain.sentences(text))) == 4
    assert plain.words("a `b c` = 3 ± 0.5") == 5 and plain.words(next(plain.sentences("a `b c` = 3 ± 0.5"))) == 4


def test_clauses_are_counted_and_pointing_words_are_not():
    assert plain.clauses("A file that holds what is needed, which is little, is small.") == 2
    assert plain.clauses("In that file that of others is kept; with that data too.") == 0
    nested = plain.nested_sentences("The node that reads files which others wrote. That is all that is said.")
    assert nested == ["The node that reads files which others wrote."]


def test_what_is_generated_is_left_to_who_writes_it():
    text = "a <!-- marks: made by make figures -->\n\nb\n\n<!-- end of marks --> c"
    assert plain.without_generated(text).split() == ["a", "c"]


def test_docstrings_are_read_as_they_are_printed():
    text = """First line.

    Args:
        one: of two
            lines.
        two, three: short.

    Returns:
        A number::

            not read

    Read::

        not read
    New sentence

    ===== ========
    not   read
    ===== ========
    Raises:
        ValueError: none.

    >>> not_read()
    1
    """
    found = list(plain.sentences(plain.of_docstring(text)))
    items = ["one: of two lines.", "two, three: short."]
    read = ["A number::", "Read::", "New sentence"]
    assert found == ["First line.", "Args:", *items, "Returns:", *read, "Raises:", "ValueError: none."]
