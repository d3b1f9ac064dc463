"""make cite: pictures and tables of the pages as a thesis takes them, and the version that is cited."""

import itertools
import json
import re
import shlex
import shutil
import string
import subprocess
import sys
import tomllib

import numpy as np
import pandas as pd
import plain
import pytest
from projects import ROOT, environment
from ruamel.yaml import YAML

from book import cite, latex, text
from studylib.experiments import cited
from studylib.experiments.published import Figures
from studylib.results.style import style

CITATION = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
PICTURES = {each.name: each for each in text.pictures(ROOT)}
TABLES = {each.name: each for each in text.tables(ROOT) if each.name not in cite.NO_RESULTS}
every_picture = pytest.mark.parametrize("name", PICTURES)
every_table = pytest.mark.parametrize("name", TABLES)
SPECIAL = string.punctuation + "±×·−≤≥≈→ℓαβγδλμστΔΣµ²–—…’‘“”\u00a0éÉöŁ"


@pytest.fixture(scope="module")
def there():
    return Figures(ROOT / "figures")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder with everything that can be cited."""
    folder = tmp_path_factory.mktemp("cite")
    assert cite.main(ROOT, folder, "all", "all") == [folder / name for name in (*PICTURES, *TABLES)]
    return folder


def tex(made, name):
    return (made / name / f"{name}.tex").read_text(encoding="utf-8")


# --- pictures -------------------------------------------------------------------------------------------------


def test_every_cited_picture_has_its_caption_on_one_page_and_every_caption_a_picture():
    assert sorted(each.name for each in text.pictures(ROOT)) == sorted([*cited.PICTURES, cited.FILES])


@every_picture
def test_a_picture_is_as_published_and_its_rows_are_those_that_it_draws(made, there, name):
    for ending in ("pdf", "png"):
        published = ROOT / "figures" / "cited" / f"{name}.{ending}"
        assert (made / name / published.name).read_bytes() == published.read_bytes()
    drawn = cited.rows(there, name)
    assert len(list((made / name).glob("*.csv"))) == len(drawn) > 0
    for table, rows in drawn.items():
        found = pd.read_csv(made / name / f"{name}-{table}.csv")
        rows = rows.reset_index(drop=True).replace("", np.nan)  # CSV has one empty cell for both
        pd.testing.assert_frame_equal(found, rows, check_dtype=False, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["narrower_networks_cifar10", "techniques_cifar10", "text_digits", "images_digits"])
def test_the_same_picture_is_drawn_of_the_rows(made, there, tmp_path, name):
    pictures, published = [], cited.rows(there, name)
    rows = {each: pd.read_csv(made / name / f"{name}-{each}.csv") for each in published}
    style()
    for each in (rows, published):
        cited._save(cited.figure(name, each), tmp_path / "picture")
        pictures.append((tmp_path / "picture.png").read_bytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    "name",
    ["techniques_digits", "techniques_cifar10", "text_digits", "text_shakespeare", "images_digits", "images_mnist"],
)
def test_names_beside_points_do_not_lie_on_each_other(there, name):
    style()
    for axis in cited.figure(name, cited.rows(there, name)).axes:
        boxes = [text.get_window_extent().padded(-1) for text in axis.texts]
        assert len(boxes) > 3 and not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@every_picture
def test_a_figure_has_caption_label_and_provenance(made, there, name):
    said = tex(made, name)
    index = json.loads((ROOT / "figures" / "cited" / cited.INDEX).read_text(encoding="utf-8"))[name]
    assert f"\\includegraphics[width=\\linewidth]{{{name}.pdf}}" in said and f"\\label{{fig:{name}}}" in said
    assert f"\\caption[{latex.inline(PICTURES[name].title)}]{{{latex.inline(PICTURES[name].title)}. " in said
    assert f"\\cite{{{cite.KEY}}}" in said
    for source in index:
        commits = source["git_commit"] if isinstance(source["git_commit"], list) else [source["git_commit"]]
        assert all(commit in said for commit in commits) and source["date"][:10] in said
        assert latex.inline(f"study `{source['study']}`") in said
        seeds = there.studies[source["study"]]["seeds"]
        key = source["chapter"].partition("_")[2]
        seeds = there.chapter(source["study"], key)["about"]["seeds"] if key else seeds
        assert f"(seed {', '.join(map(str, seeds))}; " in said
        for package, version in there.studies[source["study"]]["packages"].items():
            assert f"{package} {version}" in said


def test_a_picture_that_is_not_published_is_named(tmp_path):
    for part in ("figures", "docs"):
        shutil.copytree(ROOT / part, tmp_path / part)
    for part in ("README.md", "CITATION.cff"):
        shutil.copy(ROOT / part, tmp_path / part)
    (tmp_path / "figures" / "cited" / "effects_digits.pdf").unlink()
    (tmp_path / "figures" / "cifar10" / "06_moo.json").unlink()
    for name, lacks in (("effects_digits", "effects_digits.pdf"), ("ways_to_train_cifar10", "its rows")):
        with pytest.raises(cite.CiteError, match=f"^FIGURE={name}: {lacks} not there: expected what make figures"):
            cite.main(tmp_path, tmp_path / "out", f"front {name}")
    assert not (tmp_path / "out").exists()


# --- tables ---------------------------------------------------------------------------------------------------


@every_table
def test_a_table_has_every_cell_of_the_page_between_the_rules_of_booktabs(made, name):
    said, table = tex(made, name), TABLES[name]
    start, end = ("\\endlastfoot", "\\end{longtable}") if "\\endlastfoot" in said else ("\\midrule", "\\bottomrule")
    body = said.partition(start)[2].partition(end)[0].strip().split("\n")
    lines = [line.removesuffix(" \\\\") for line in body]
    assert [line.split(" & ") for line in lines] == [[latex.inline(cell) for cell in row] for row in table.rows]
    assert all(rule in said for rule in ("\\toprule", "\\midrule", "\\bottomrule"))
    assert f"\\label{{tab:{name}}}" in said and latex.inline(table.title) in said
    assert ("\\begin{longtable}" in said) == (len(table.rows) > latex.LONG)


@every_table
def test_a_table_says_where_its_rows_are_from(made, there, name):
    said = tex(made, name)
    for study in cite.studies_of(TABLES[name], there):
        assert all(commit in said for commit in there.studies[study]["git_commit"]), study
    assert f"\\cite{{{cite.KEY}}}" in said and "Made with Python 3" in said


def test_the_studies_of_a_table_are_those_that_it_names(there):
    found = {name: cite.studies_of(table, there) for name, table in TABLES.items()}
    assert all(found[f"results_of_{study}"] == [study] for study in ("cifar10", "mnist", "digits"))
    assert found["compared"] == ["digits", "digits-two_objectives"] and found["margins"] == ["cifar10", "digits"]
    assert found["what_was_run"] == list(there.studies) and found["at_a_glance"] == [
        "cifar10",
        "small_files-three_teachers_slow",
    ]
    assert "small_files-three_teachers_slow" in found["marks"]  # by a file of its own
    assert found["what_the_paper_says"] == there.on_papers_data


def of_cells(heads, *rows, right=(), notes=""):
    return text.Table("name", "Title", list(heads), list(rows), list(right) or [False] * len(heads), notes)


def test_heads_have_their_units_in_brackets_and_numbers_stand_to_the_right():
    cells = of_cells(["node", "saved %", "margin, points", "kB"], ["a", "1", "2", "3"], right=[False, True, True, True])
    made = latex.table(cells, "")
    assert "\\begin{tabular}{lrrr}" in made and "\nnode & " in made
    heads = re.search(r"\\toprule\n(.*?) \\\\\n\\midrule", made, flags=re.S)[1]
    words = re.sub(r"\\(?:begin|end)\{tabular\}(?:\[b\]\{@\{\}r@\{\}\})?", "", heads).replace(" \\\\ ", " ")
    assert words == "node & saved (\\%) & margin (points) & kB"


def test_long_texts_break_over_lines_and_many_rows_over_pages():
    wide = of_cells(["a", "b", "c"], ["x" * 20 + " y" * 20, "z " * 20, "1"], right=[False, False, True])
    made = latex.table(wide, "")
    assert made.count("p{\\dimexpr") == 3 and "raggedleft" in made and "resizebox" not in made
    shares = [float(share) for share in re.findall(r"\\dimexpr ([\d.]+)\\linewidth", made)]
    assert sum(shares) == pytest.approx(1, abs=0.002) and min(shares) > 0
    assert "longtable" not in made
    assert "\\begin{longtable}" in latex.table(of_cells(["a"], *[["b"]] * (latex.LONG + 1)), "")


# --- LaTeX ----------------------------------------------------------------------------------------------------


def test_signs_that_latex_takes_for_its_own_are_escaped():
    assert latex.escaped("50 % of a_b & $c #1 {x}") == "50 \\% of a\\_\\allowbreak{}b \\& \\$c \\#1 \\{x\\}"
    assert latex.escaped("~^\\<>|") == (
        "\\textasciitilde{}\\textasciicircum{}\\textbackslash{}\\textless{}\\textgreater{}\\textbar{}"
    )
    assert latex.escaped('"so" [1] *') == "``so'' {[}1{]} {*}"
    assert latex.escaped("± 1 ≥ α µ – é") == "$\\pm$ 1 $\\geq$ $\\alpha$ \\textmu{} -- é"


def test_a_hyphen_before_a_number_is_a_minus_and_one_in_a_name_is_none():
    assert latex.escaped("-0.5 (-3 to +2), z95-4bit, 1-2") == "$-$0.5 ($-$3 to +2), z95-4bit, 1-2"


@pytest.mark.parametrize("sign", "☃漢\u0301")
def test_a_sign_that_latex_would_not_know_is_named(sign):
    with pytest.raises(ValueError, match=f"U\\+{ord(sign):04X}.*: expected a sign of SIGNS in book/latex.py"):
        latex.escaped(f"a {sign}")


def test_markdown_becomes_latex():
    assert latex.inline("see `a_b/c-d` in [the *big* 5 %](x.md#y), **not** $2^8$ & more") == (
        "see \\texttt{a\\_\\allowbreak{}b/\\allowbreak{}c-\\allowbreak{}d} in the \\emph{big} 5 \\%, "
        "\\textbf{not} $2^8$ \\& more"
    )


def lacking():
    """The programs and packages of LaTeX that are not installed."""
    programs = [name for name in ("pdflatex", "bibtex", "kpsewhich") if not shutil.which(name)]
    files = [f"{name}.sty" for name in latex.NEEDS.split(", ")]
    return programs or [file for file in files if subprocess.run(["kpsewhich", file], capture_output=True).returncode]


@pytest.mark.skipif(bool(lacking()), reason=f"LaTeX lacks {lacking()}: texlive-latex-recommended and -base have them")
def test_pdflatex_compiles_all_of_it_and_every_sign(made, tmp_path):
    signs = of_cells(["a"], [SPECIAL], *[[sign] for sign in SPECIAL], notes=SPECIAL)
    (tmp_path / "signs.tex").write_text(latex.table(signs, latex.escaped(SPECIAL)), encoding="utf-8")
    page = ["\\documentclass{article}", f"\\usepackage{{{latex.NEEDS}}}", "\\begin{document}"]
    page += ["\\listoffigures", "\\listoftables"]
    for name in (*PICTURES, *TABLES):
        page += [f"\\graphicspath{{{{{made / name}/}}}}", f"\\input{{{made / name / name}.tex}}", "\\clearpage"]
    page += ["\\input{signs.tex}", "\\bibliographystyle{plain}", f"\\bibliography{{{cite.KEY}}}", "\\end{document}"]
    (tmp_path / "page.tex").write_text("\n".join(page), encoding="utf-8")
    shutil.copy(made / name / f"{cite.KEY}.bib", tmp_path)
    compiled = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    for command in (compiled, ["bibtex", "page"], compiled, compiled):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="latin-1")
        assert done.returncode == 0, done.stdout[-3000:]
    assert re.findall("^.*Warning.*$", done.stdout + (tmp_path / "page.blg").read_text(), flags=re.M) == []
    assert [over for over in re.findall(r"Overfull \\hbox \(([\d.]+)pt", done.stdout) if float(over) > 20] == []


# --- the study as BibTeX, and its version ---------------------------------------------------------------------


def test_the_entry_is_what_the_citation_file_says_with_the_commit():
    made = cite.entry(CITATION, "abc123+")
    assert made.startswith("@misc{studylib,\n") and made.count("{") == made.count("}")
    assert f"  title = {{{{{CITATION['title']}}}}},\n" in made
    assert f"  note = {{Version {CITATION['version']}, commit abc123+}},\n" in made
    assert f"  year = {{{CITATION['date-released'].year}}},\n" in made and "url" not in made
    assert "  author = {{The authors of the study}},\n" in made
    assert "commit" not in cite.entry(CITATION, "unknown")


def test_people_and_an_address_are_taken_over():
    people = [{"family-names": "de la Cruz & Co", "given-names": "Ana"}, {"name": "A group"}]
    made = cite.entry(CITATION | {"authors": people, "repository-code": "https://example.org/a_b"}, "abc")
    assert (
        "  author = {de la Cruz \\& Co, Ana and {A group}},\n" in made
        and "  url = {https://example.org/a_b},\n" in made
    )


def test_every_folder_has_the_same_entry(made):
    entries = {path.read_text(encoding="utf-8") for path in made.glob(f"*/{cite.KEY}.bib")}
    assert len(entries) == 1 and len(list(made.glob(f"*/{cite.KEY}.bib"))) == len(PICTURES) + len(TABLES)


def test_package_citation_and_changes_have_one_version_and_its_tag_is_named():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    changes = (ROOT / "CHANGES.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", changes, flags=re.M)
    assert headings[0] == f"{version}, tag `v{version}`" and CITATION["version"] == version
    assert all(re.fullmatch(r"(\d+\.\d+\.\d+), tag `v\1`", heading) for heading in headings)


def test_the_changes_know_every_study_as_it_is_published(there):
    changes = (ROOT / "CHANGES.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \| [\d-]+ \| ([\d-]+) \|", changes, flags=re.M))
    for study, about in there.studies.items():
        files = (ROOT / "figures" / study).glob("[0-9]*.json")
        chapters = [json.loads(file.read_text(encoding="utf-8"))["about"].get("provenance", {}) for file in files]
        newest = max(made.get("date", "")[:10] for made in [about, *chapters])
        assert rows.get(study) == newest, f"{study}: CHANGES.md does not say what was published of {newest}, and why"


def test_the_changes_are_plain():
    changes = (ROOT / "CHANGES.md").read_text(encoding="utf-8")
    assert plain.long_sentences(changes) == [] and plain.nested_sentences(changes) == []
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", changes)]
    assert links and all((ROOT / link).exists() for link in links)


# --- the command ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figures", "tables", "said"),
    [
        ("", " ", "nothing to cite: expected FIGURE= all or names of front, accuracy_"),
        ("fornt", "", "FIGURE=fornt: no such name; expected FIGURE= all or names of front, accuracy_"),
        ("", "sweep front", "TABLE=front: no such name; expected TABLE= all or names of sweep, at_a_glance, "),
        ("front all", "", "FIGURE=all: no such name"),
        ("front", "chapters", "TABLE=chapters: no such name"),
    ],
)
def test_what_cannot_be_cited_is_named_beside_what_can_and_nothing_is_written(figures, tables, said, tmp_path):
    with pytest.raises(cite.CiteError, match=f"^{re.escape(said)}"):
        cite.main(ROOT, tmp_path / "out", figures, tables)
    assert not (tmp_path / "out").exists()


def test_front_and_sweep_are_short_names(tmp_path):
    assert [path.name for path in cite.main(ROOT, tmp_path, "front", "sweep")] == [
        "accuracy_against_bytes_cifar10",
        "results_of_cifar10",
    ]


def test_the_command_ends_with_a_sentence_and_make_hands_it_the_names(tmp_path):
    command = [sys.executable, ROOT / "book" / "cite.py", "--figure", "fornt", "--out", tmp_path / "out"]
    done = subprocess.run(command, env=environment(ROOT), text=True, capture_output=True)
    assert done.returncode == 1 and done.stderr.startswith("FIGURE=fornt: ") and done.stderr.count("\n") == 1
    dry = subprocess.run(["make", "-n", "cite", "FIGURE=front", "TABLE=a b"], cwd=ROOT, text=True, capture_output=True)
    assert 'book/cite.py --figure "front" --table "a b"' in dry.stdout


def test_what_the_pages_cite_can_be_cited():
    commands = [
        shlex.split(command.partition(" #")[0])
        for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for command in re.findall(r"^`{0}(make cite [^`\n]*)|`(make cite [^`\n]*)`", page.read_text(encoding="utf-8"))
        for command in command
        if command
    ]
    given = [word.split("=", 1) for command in commands for word in command[2:]]
    known = {"FIGURE": PICTURES, "TABLE": TABLES}
    assert given and all(cite._chosen(kind, name, known[kind]) for kind, name in given)
