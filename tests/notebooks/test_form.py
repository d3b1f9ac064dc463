"""What every notebook looks like, read from the file."""

import ast
import re
import statistics

import nbformat
import pytest
from projects import ROOT, defaults_of

from engine.settings import chapters, check, parameters
from studylib import settings

DECLARED = chapters.declared()
NOTEBOOKS = chapters.notebooks()
OF_CHOICES = {each.notebook for each in DECLARED.values() if each.role == "choice"}  # they make nodes, too
LONGEST = {"parameters": 10, "half the cells": 6, "nine in ten": 12, "any": 20}  # lines of a cell
WORDS = 80  # of a paragraph in which the method is explained


def cells(stage, kind="code"):
    return [cell for cell in nbformat.read(NOTEBOOKS[stage], as_version=4).cells if cell.cell_type == kind]


def tags_of(cell):
    return cell.metadata.get("tags", [])


def without_parameters(stage):
    return [cell for cell in cells(stage) if "parameters" not in tags_of(cell)]


def between(stage, heading, end, kind):
    """The cells of a kind from the one that begins with ``heading`` to the one in which ``end`` does."""
    found = []
    for cell in nbformat.read(NOTEBOOKS[stage], as_version=4).cells:
        lines = cell.source.splitlines() if cell.cell_type == "markdown" else []
        if end in lines:
            break
        if found or heading in lines:
            found.append(cell)
    return [cell for cell in found if cell.cell_type == kind]


@pytest.fixture(params=list(NOTEBOOKS))
def stage(request):
    return request.param


def test_it_has_one_parameters_cell_of_a_few_typed_and_explained_literals(stage):
    found = [cell for cell in cells(stage) if "parameters" in tags_of(cell)]
    assert len(found) == 1 and len(found[0].source.splitlines()) <= LONGEST["parameters"]
    for line, item in zip(found[0].source.splitlines(), ast.parse(found[0].source).body, strict=True):
        assert isinstance(item, ast.AnnAssign), line
        assert type(ast.literal_eval(item.value)).__name__ == ast.unparse(item.annotation).partition("[")[0], line
        assert re.search(r"  # \S", line.removesuffix("  # fmt: skip")), f"no meaning beside: {line}"


def test_its_parameters_are_those_of_the_study_that_it_shows(stage):
    given, digits = defaults_of(NOTEBOOKS[stage]), parameters.load("digits")
    records = check.records_of(stage, digits)
    assert {name: settings.read(type(record), given[name], name) for name, record in records.items()} == records
    study = settings.read(settings.Study, given["study"], "study")
    assert (study.dataset, study.seed) == (digits["study"]["dataset"], digits["study"]["seeds"][0])
    assert (study.threads, study.device) == (0, digits["study"]["device"])  # as many as the reader's machine has
    nodes = DECLARED[stage].reads | ({"parent": "teacher"} if DECLARED[stage].role == "technique" else {})
    expected = {name: f"runs/digits/seed{study.seed}/{node}" for name, node in nodes.items()}
    expected |= {"published": "figures/digits", "out": f"runs/notebooks/{DECLARED[stage].name}"}
    if DECLARED[stage].role in ("root", "technique"):
        expected["reuse"] = ""
    if NOTEBOOKS[stage] in OF_CHOICES:
        expected["technique"] = given["technique"]  # the one that the page shows
    if DECLARED[stage].role == "table":
        expected |= {"run": "runs/digits", "profile": "digits"}
        expected |= {name: digits["study"][name] for name in ("seeds", "stages")}
    assert {name: value for name, value in given.items() if name not in {"study", *records}} == expected


def test_it_was_stored_as_it_ran_without_errors_and_in_order(stage):
    counts = [cell.execution_count for cell in cells(stage)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in cells(stage) for output in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error"]


def test_it_has_checked_outputs_and_they_are_there(stage):
    checked = [cell for cell in cells(stage) if "NBVAL_CHECK_OUTPUT" in cell.source]
    assert checked and all(cell.outputs for cell in checked)


def test_no_checked_output_differs_from_processor_to_processor(stage):
    """A trained network's file and its accuracy do: sums are rounded otherwise."""
    checked = [cell.source for cell in cells(stage) if "NBVAL_CHECK_OUTPUT" in cell.source]
    measured = ('"bytes_file"', "st_size", '"accuracy"', ".accuracy", "bits_per")
    assert not [(name, source) for source in checked for name in measured if name in source]


def test_the_outputs_that_are_checked_are_there_in_its_reduced_form(stage):
    path = ROOT / "tests" / "notebooks" / "reduced" / NOTEBOOKS[stage].name
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    checked = [cell for cell in code if "NBVAL_CHECK_OUTPUT" in cell.source]
    assert checked and all(cell.outputs for cell in checked)
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def test_its_reduced_form_is_it_with_less_parameters_and_its_checked_outputs(stage):
    path = ROOT / "tests" / "notebooks" / "reduced" / NOTEBOOKS[stage].name
    reduced = nbformat.read(path, as_version=4).cells
    given = [cell for cell in reduced if "injected-parameters" in tags_of(cell)]
    assert len(given) == 1
    whole = nbformat.read(NOTEBOOKS[stage], as_version=4).cells
    same = [cell.source for cell in reduced if cell is not given[0]]
    assert same == [cell.source for cell in whole], "make notebooks stores it anew"
    assert all(
        bool(cell.outputs) == ("NBVAL_CHECK_OUTPUT" in cell.source) for cell in reduced if cell.cell_type == "code"
    )


def test_what_only_the_chapter_shows_is_tagged(stage):
    code = without_parameters(stage)
    if DECLARED[stage].role == "chapter" and NOTEBOOKS[stage] not in OF_CHOICES:  # all of it is the chapter's
        assert not any("lesson" in tags_of(cell) for cell in code)
        return
    assert any("lesson" in tags_of(cell) for cell in code)
    if DECLARED[stage].role in ("root", "technique") or NOTEBOOKS[stage] in OF_CHOICES:
        made = next(k for k, cell in enumerate(code) if "node.make(" in cell.source)
        assert ["lesson" in tags_of(cell) for cell in code] == [k > made for k in range(len(code))]


def draws(source: str) -> bool:
    """Whether a cell calls what draws: any .figure(…), or report.show_published(…)."""
    called = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return any(isinstance(f, ast.Attribute) and f.attr in ("figure", "show_published") for f in called)


def test_cells_that_draw_are_tagged_and_no_others(stage):
    for cell in cells(stage):
        assert ("figure" in tags_of(cell)) == draws(cell.source), cell.source
        assert set(tags_of(cell)) <= {"parameters", "lesson", "figure"}, cell.source


def test_it_shows_a_figure(stage):
    outputs = [output for cell in cells(stage) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def are_short(lengths: list[int]) -> bool:
    few = sum(length <= LONGEST["nine in ten"] for length in lengths)
    return (
        statistics.median(lengths) <= LONGEST["half the cells"]
        and few >= 0.9 * len(lengths)
        and max(lengths) <= LONGEST["any"]
    )


@pytest.mark.parametrize(
    ("lengths", "short"),
    [([6, 6, 20], False), ([6] * 9 + [20], True), ([6] * 9 + [21], False), ([7] * 6 + [1] * 5, False)],
)
def test_short_is_said_of_half_the_cells_of_nine_in_ten_and_of_each(lengths, short):
    assert are_short(lengths) == short


def test_its_cells_are_short(stage):
    lengths = [len(cell.source.splitlines()) for cell in without_parameters(stage)]
    assert are_short(lengths), lengths


def test_the_cells_of_all_notebooks_are_short():
    assert are_short([len(cell.source.splitlines()) for stage in NOTEBOOKS for cell in without_parameters(stage)])


def asks_how_it_runs(source: str) -> bool:
    """Whether code branches on being a lesson, or on being published: the chapter's machinery does that."""
    tests = [node.test for node in ast.walk(ast.parse(source)) if isinstance(node, ast.If | ast.IfExp | ast.While)]
    inner = [part for test in tests for part in ast.walk(test)]
    words = {getattr(part, "id", "") for part in inner} | {getattr(part, "attr", "") for part in inner}
    return bool(words & {"lesson", "published"})


@pytest.mark.parametrize(
    ("source", "asks"),
    [
        ("if lesson:\n    1", True),
        ("x = 1 if node.published else 2", True),
        ("if not published and x:\n    1", True),
        ("node = Node.of(out, study, published)\nif x:\n    1", False),
    ],
)
def test_the_search_for_questions_how_it_runs_finds_them(source, asks):
    assert asks_how_it_runs(source) == asks


def test_its_cells_define_no_classes_and_do_not_ask_how_they_run(stage):
    for cell in cells(stage):
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(cell.source))), cell.source
        assert not asks_how_it_runs(cell.source), cell.source


def test_its_method_is_explained_in_short_paragraphs(stage):
    method = between(stage, "## Method", "## Results", "markdown")
    paragraphs = [part for cell in method for part in re.split(r"\n\s*\n", cell.source)]
    assert len(paragraphs) > 1
    for paragraph in paragraphs:
        assert len(paragraph.split()) <= WORDS, paragraph


def promised(stage):
    return len(re.findall(r"^\d\.", cells(stage, "markdown")[0].source, flags=re.M))


def test_it_follows_the_plan_of_a_chapter_and_takes_away_what_it_promised(stage):
    text = "\n".join(cell.source for cell in cells(stage, "markdown"))
    found = re.findall(r"^(?:\*\*Question\.\*\*|## .*$)", text, flags=re.M)
    assert found == [
        "**Question.**",
        *("## Method", "## Results", "## Takeaway", "## Paper says, we measured", "## Limits"),
    ]
    taken = "\n".join(cell.source for cell in between(stage, "## Takeaway", "## Paper says, we measured", "code"))
    numbers = [int(number) for number in re.findall(r"^(\d)\. ", taken, flags=re.M)]
    assert numbers == list(range(1, promised(stage) + 1)) and len(numbers) >= 2


def test_what_it_takes_away_is_stored_item_by_item(stage):
    cell = between(stage, "## Takeaway", "## Paper says, we measured", "code")[-1]
    said = cell.outputs[-1]["data"]["text/markdown"]
    assert len(re.findall(r"^\d\. \S", said, flags=re.M)) == promised(stage)


def test_no_link_depends_on_where_it_lies(stage):
    text = "\n".join(cell.source for cell in cells(stage, "markdown"))
    assert [link for link in re.findall(r"\]\(([^)]*)\)", text) if "://" not in link] == []


def test_no_path_of_a_machine_is_stored(stage):
    text = NOTEBOOKS[stage].read_text()
    assert not re.search(r"/home/|/root/|/tmp/|/Users/", text)


def typed_numbers(text: str) -> list[str]:
    """Numbers in prose that no reader could trace: not of an equation, a reference, a year, a name, a list."""
    for allowed in (
        r"\$\$.*?\$\$|\$[^$]*[A-Za-z^][^$]*\$|`[^`]*[A-Za-z][^`]*`|\]\([^)]*\)",  # equations, code, links
        r"\$-?\d+ \\dots \d+\$",  # a range of integers
        r"^\s*#*\s*\d+\. ",  # the number of a heading or an item
        r"\b(section|figure|figures|equation|chapter|chapters)\s\d+(\.\d+)?( and \d+)?",
        r"(?<=[(\s])(19|20)\d\d(?=[),;:.\s])(?! (bytes|images|steps))",  # the year of a source
        r"\b(u?int\d+|float\d+|bfloat16|log2|CIFAR-10|PT2E|L1|DenseNet-\d+)\b",
    ):
        text = re.sub(allowed, " ", text, flags=re.M | re.S | re.I)
    return re.findall(r"\d[\d.,…]*", text)


@pytest.mark.parametrize(
    "prose, found",
    [
        ("It reaches 91.65 % in 6,200 bytes.", ["91.65", "6,200"]),
        ("It has `97.3` or $97.3$ in 2048 bytes, a model-97.", ["97.3", "97.3", "2048", "97."]),
        ("It loses 3 points, see Figure 5 and section 3.6 of Hsu et al. (2022).", ["3"]),
        ("# 4. SVD\n\n1. int8, float32, CIFAR-10, L1, PT2E\n2. $r = 12$ and `epochs=3`, [chapter 7](07_x.ipynb)", []),
    ],
)
def test_the_search_for_typed_numbers_finds_them(prose, found):
    assert typed_numbers(prose) == found


def spoken(source: str) -> list[str]:
    """What a code cell says in words of its own: the literal parts of its f-strings, format specifications left out."""
    tree = ast.parse(source)
    formats = [n.format_spec for n in ast.walk(tree) if isinstance(n, ast.FormattedValue) and n.format_spec]
    skipped = {id(part) for spec in formats for part in ast.walk(spec)}
    literals = [part for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for part in n.values]
    strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    plain = [n.value for n in strings if id(n) not in skipped]
    plain = [text for text in plain if re.search(r"\d\s?(%|points|bytes|kB|nats)", text)]
    return [p.value for p in literals if isinstance(p, ast.Constant) and id(p) not in skipped] + plain


def test_no_number_in_its_prose_is_typed(stage):
    for cell in cells(stage, "markdown"):
        assert not typed_numbers(cell.source), cell.source
    for cell in cells(stage):
        text = "\n".join(spoken(cell.source))
        assert not typed_numbers(text), cell.source


def test_it_ends_with_the_verdicts_on_its_claims(stage):
    headings = re.findall(r"^## (.*)$", "\n".join(c.source for c in cells(stage, "markdown")), flags=re.M)
    assert headings[-3:] == ["Takeaway", "Paper says, we measured", "Limits"]
    last = between(stage, "## Paper says, we measured", "## Limits", "code")
    assert last[0].source.startswith(f'chapter.verdicts("{stage}", ')
    beside = [name for cell in cells(stage) for name in re.findall(r"^(\w+) = Beside\(", cell.source, flags=re.M)]
    assert [cell.source for cell in last[1:]] == [f'{name}.verdicts("{stage}")' for name in beside]
    assert beside or stage in (
        "survey",
        "screening",
        "federated",
    )  # which are published of one study alone


def test_what_the_paper_says_is_stored_beside_what_was_measured(stage):
    shown = [
        output["data"]["text/markdown"]
        for cell in between(stage, "## Paper says, we measured", "(the end)", "code")
        for output in cell.outputs
        if "text/markdown" in output.get("data", {})
    ]
    assert any(text.startswith("| paper says | where | we measured | verdict |") for text in shown)
