"""What every notebook looks like, read from the file."""

import ast
import re

import nbformat
import pytest
from projects import ROOT

from engine import parameters

NOTEBOOKS = parameters.notebooks()
STAGES = [stage for stage in NOTEBOOKS if stage not in ("teacher", "sweep")]


def cells(stage, kind="code"):
    return [cell for cell in nbformat.read(NOTEBOOKS[stage], as_version=4).cells if cell.cell_type == kind]


def cell_after(stage, heading):
    """The first code cell below a heading."""
    everything = nbformat.read(NOTEBOOKS[stage], as_version=4).cells
    start = next(i for i, c in enumerate(everything) if c.cell_type == "markdown" and heading in c.source.splitlines())
    return next(c for c in everything[start:] if c.cell_type == "code")


@pytest.fixture(params=list(NOTEBOOKS))
def stage(request):
    return request.param


def test_it_has_one_parameters_cell_of_typed_and_explained_literals(stage):
    found = [cell for cell in cells(stage) if "parameters" in cell.metadata.get("tags", [])]
    assert len(found) == 1
    for line, item in zip(found[0].source.splitlines(), ast.parse(found[0].source).body, strict=True):
        assert isinstance(item, ast.AnnAssign), line
        ast.literal_eval(item.value)
        assert re.search(r"  # \S", line), f"no meaning beside: {line}"


def test_it_takes_out_and_a_stage_its_parent(stage):
    names = set(parameters.types_of(NOTEBOOKS[stage]))
    assert "out" in names
    assert ("parent" in names) == (stage in STAGES)


def test_it_was_stored_as_it_ran_without_errors_and_in_order(stage):
    counts = [cell.execution_count for cell in cells(stage)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for cell in cells(stage) for output in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error"]


def test_it_has_checked_outputs_and_they_are_there(stage):
    checked = [cell for cell in cells(stage) if "NBVAL_CHECK_OUTPUT" in cell.source]
    assert checked and all(cell.outputs for cell in checked)


def test_its_reduced_form_is_it_with_less_parameters_and_its_checked_outputs(stage):
    path = ROOT / "tests" / "notebooks" / "reduced" / NOTEBOOKS[stage].name
    reduced = nbformat.read(path, as_version=4).cells
    given = [cell for cell in reduced if "injected-parameters" in cell.metadata.get("tags", [])]
    assert len(given) == 1
    whole = nbformat.read(NOTEBOOKS[stage], as_version=4).cells
    same = [cell.source for cell in reduced if cell is not given[0]]
    assert same == [cell.source for cell in whole], "make notebooks stores it anew"
    assert all(
        bool(cell.outputs) == ("NBVAL_CHECK_OUTPUT" in cell.source) for cell in reduced if cell.cell_type == "code"
    )


def test_what_only_the_chapter_shows_is_tagged_and_not_asked_for(stage):
    for cell in cells(stage):
        tests = [node.test for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.If)]
        named = {name.id for test in tests for name in ast.walk(test) if isinstance(name, ast.Name)}
        assert "lesson" not in named, cell.source
    if stage not in ("moo", "frontier"):  # chapters that are no nodes
        assert any("lesson" in cell.metadata.get("tags", []) for cell in cells(stage))


def test_it_shows_a_figure(stage):
    outputs = [output for cell in cells(stage) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_its_cells_are_short_and_define_no_classes(stage):
    for cell in cells(stage):
        assert len(cell.source.splitlines()) <= 25, cell.source
        assert not re.search(r"^\s*class \w+[:(]", cell.source, flags=re.M)


def test_it_follows_the_plan_of_a_chapter(stage):
    text = "\n".join(cell.source for cell in cells(stage, "markdown"))
    for heading in ("**Question.**", "## Method", "## Results", "## Takeaway", "## Limits"):
        assert heading in text
    opening = cells(stage, "markdown")[0].source
    promises = len(re.findall(r"^\d\.", opening, flags=re.M))
    takeaway = cell_after(stage, "## Takeaway").outputs[-1]["data"]["text/markdown"]
    assert promises >= 2 and len(re.findall(r"^\d\. ", takeaway, flags=re.M)) == promises


def test_what_it_links_to_is_there(stage):
    text = "\n".join(cell.source for cell in cells(stage, "markdown"))
    links = [link for link in re.findall(r"\]\(([^)]*)\)", text) if "://" not in link]
    assert [link for link in links if not (NOTEBOOKS[stage].parent / link).is_file()] == []


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
        text = "\n".join(["\n".join(spoken(cell.source))])
        assert not typed_numbers(text), cell.source


def test_it_ends_with_what_the_paper_says_beside_what_was_measured(stage):
    headings = re.findall(r"^## (.*)$", "\n".join(c.source for c in cells(stage, "markdown")), flags=re.M)
    assert headings[-3:] == ["Takeaway", "Paper says, we measured", "Limits"]
    shown = [
        o["data"]["text/markdown"] for c in cells(stage) for o in c.outputs if "text/markdown" in o.get("data", {})
    ]
    assert shown[-1].startswith("| paper says | where | we measured | verdict |")
