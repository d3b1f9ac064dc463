"""The page of a run: what is on it, of a whole run, of a part, and of one in which something is wrong."""

import base64
import html
import itertools
import json
import os
import re
import shutil
from html.parser import HTMLParser

import browser
import pandas as pd
import pytest
from projects import ROOT

from studylib.experiments import run_page, time_left
from studylib.plots import captions
from studylib.results import tables
from studylib.tree import names, table

SMOKE = ROOT / "runs" / "smoke"
STUDY = {"seeds": [0], "stages": ["distill", "prune", "svd", "int8"]}
AGAIN = "make study PROFILE=smoke"
CHAPTER = ROOT / "notebooks" / "02_distill.ipynb"  # stored as run, with its pictures
ENOUGH = ("sweep.csv", "sweep.ipynb", "latency.json", "study.json")
PNG = base64.b64decode(  # one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Page(HTMLParser):
    """Headings, links, pictures, and addresses that a browser would ask for, of a page."""

    def __init__(self, text):
        super().__init__()
        self.levels, self.links, self.alts, self.asked, self.anchors = [], [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.levels += [int(tag[1])] if re.fullmatch("h[1-6]", tag) else []
        self.links += [given["href"]] if tag == "a" and "href" in given else []
        self.alts += [given.get("alt")] if tag == "img" else []
        self.asked += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]
        self.asked += [given["href"]] if tag != "a" and "href" in given else []
        self.anchors.add(given.get("id"))


@pytest.fixture
def run(tmp_path):
    """A copy of the smoke run, named as such, that a test may change; skipped where it was not run."""
    if not (SMOKE / "sweep.csv").exists():
        pytest.skip("no smoke run here: make study PROFILE=smoke")
    target = tmp_path / "smoke"
    shutil.copytree(SMOKE / "figures", target / "figures")
    for path in [*SMOKE.glob("seed0/*"), *(SMOKE / name for name in ENOUGH)]:
        files = [path / name for name in (*run_page.OF_NODE, "model.json", "log.txt")] if path.is_dir() else [path]
        for file in files:
            (target / file.relative_to(SMOKE)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target / file.relative_to(SMOKE))
    shutil.copy2(SMOKE / "sweep.csv", target / "sweep.csv")
    return target


def with_chapter(run, whole=True):
    """Puts a chapter into a run: the stored notebook, a figure that it draws, and what says that it came to its end."""
    folder = run / "chapters" / CHAPTER.stem
    (folder / "figures").mkdir(parents=True)
    shutil.copy(CHAPTER, folder / "notebook.ipynb")
    (folder / "figures" / "with_and_without_teacher.png").write_bytes(PNG)
    if whole:
        content = {key: {} for key in ("about", "settings", "metrics", "rows", "claims")}
        (folder / "chapter.json").write_text(json.dumps({"chapter": CHAPTER.stem, **content}))
    return folder


def written(run, study=STUDY, notebooks=(), whole=True, profile=STUDY):
    run_page.write(run, study, profile, list(notebooks), AGAIN, whole)
    return (run / run_page.INDEX).read_text(encoding="utf-8")


def shown(text):
    """The table of a page: node → the texts of its cells."""
    body = re.search(r"<tbody>(.*?)</tbody>", text, flags=re.S)[1]
    lines = re.findall(r'<span class="soft">(\S+)</span></th>(.*?)</tr>', body)
    return {node: re.findall(r"<td>(.*?)</td>", cells) for node, cells in lines}


def test_the_table_is_what_the_command_prints_smallest_file_first(run):
    found = shown(written(run))
    summary = table.summary(table.read_table(run / "sweep.csv"))
    printed = tables.display_table(summary).set_index("node")
    assert list(found) == summary.sort_values("bytes_file", kind="stable")["node"].tolist() and len(found) == 16
    assert {node: cells for node, cells in found.items()} == {n: row.tolist() for n, row in printed.iterrows()}


def test_pictures_stand_in_the_page_with_captions_as_alternative_texts(run):
    text = written(run)
    page = Page(text)
    assert len(page.alts) == 2 and any("the paper, Figure 1" in alt for alt in page.alts)
    assert all(alt and f"<figcaption>{alt}</figcaption>" in text for alt in page.alts)
    for name in ("tree", "front"):
        assert base64.b64encode((run / "figures" / f"{name}.png").read_bytes()).decode() in text


def test_nothing_is_asked_for_from_outside_and_every_link_leads_to_a_file_of_the_run(run):
    with_chapter(run)
    index = written(run, notebooks=[CHAPTER])
    chapter = run / "chapters" / CHAPTER.stem / run_page.RENDERED
    for path, text in ((run / run_page.INDEX, index), (chapter, chapter.read_text(encoding="utf-8"))):
        page = Page(text)
        assert all(address.startswith("data:") or address == run_page.EXPLORER for address in page.asked)
        assert "default-src 'none'" in text and not re.search(r"@import|url\(", text.split("</style>")[0])
        for link in page.links:
            name, _, anchor = link.partition("#")
            assert (path.parent / name).exists() if name else anchor in page.anchors, link


def test_headings_are_in_order(run):
    with_chapter(run)
    index = written(run, notebooks=[CHAPTER, ROOT / "notebooks" / "03_prune.ipynb"])
    chapter = (run / "chapters" / CHAPTER.stem / run_page.RENDERED).read_text(encoding="utf-8")
    for text in (index, chapter):
        levels = Page(text).levels
        assert levels[0] == 1 and levels.count(1) == 1 and len(levels) > 4
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_a_chapter_has_title_question_pictures_and_takeaway_and_is_linked_as_it_was_run(run):
    folder = with_chapter(run)
    text = written(run, notebooks=[CHAPTER])
    assert "What is missing" not in text and f'href="chapters/{CHAPTER.stem}/{run_page.RENDERED}"' in text
    assert ">2. Knowledge distillation</h3>" in text and "Does a small network learn more" in text
    assert "Losses and validation accuracy along the training" in text and "The student has" in text
    rendered = (folder / run_page.RENDERED).read_text(encoding="utf-8")
    cells = json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]
    pictures = sum("image/png" in out.get("data", {}) for cell in cells for out in cell.get("outputs", []))
    page = Page(rendered)
    assert len(page.alts) == pictures > 0 and not any("No description" in alt for alt in page.alts)
    assert "<script" not in rendered and "../../index.html" in page.links
    code = sum(cell["cell_type"] == "code" for cell in cells)
    assert rendered.count('<details class="code">') == code


def test_a_figure_has_the_caption_of_its_own_chapter_where_another_draws_by_that_name():
    said = {chapter: captions.drawn(chapter)["draw_bits"] for chapter in ("gpt", "vae")}
    assert "bits per character" in said["gpt"] and "bits per dimension" in said["vae"]
    call = 'chapter.figure("bits", plots.draw_bits(nodes), nodes)'
    assert [*captions.of_figures(call, "gpt")] == [("chapter", "bits", said["gpt"])]


def test_formulas_are_no_bare_dollars(run):
    folder = with_chapter(run)
    written(run, notebooks=[CHAPTER])
    text = re.sub(r"<pre>.*?</pre>", "", (folder / run_page.RENDERED).read_text(encoding="utf-8"), flags=re.S)
    assert "$" not in text and ("<math" in text or 'class="formula inline"' in text)


def test_nodes_that_are_missing_are_named_with_the_end_of_their_log_and_the_others_are_shown(run):
    for node in ("teacher-kd-int8", "teacher-svd"):
        (run / "seed0" / node / names.METRICS).unlink()
    (run / "seed0/teacher-svd/log.txt").write_text("begun\nValueError: delta=<0>: expected at least 1\n\n")
    text = written(run, whole=False)
    missing = re.search(r'<section class="missing">(.*?)</section>', text, flags=re.S)[1]
    assert "Of seed 0: <code>teacher-svd</code>, <code>teacher-kd-int8</code>." in missing
    assert "ends: <code>ValueError: delta=&lt;0&gt;: expected at least 1</code>" in missing
    assert "The table of all nodes." in missing and "did not finish" in missing and f"<code>{AGAIN}</code>" in missing
    assert len(shown(text)) == 14 and "It comes with the table of all nodes" in text
    assert not (run / run_page.EXPLORER).exists()


def test_seeds_that_lack_the_same_nodes_are_named_together(run):
    text = written(run, {"seeds": [0, 1, 2, 4], "stages": ["prune"]})
    assert "<li>Of seeds 1–2, 4: all nodes.</li>" in text and "Of seed 0" not in text
    assert list(shown(text)) == ["teacher-imp", "teacher"]


def part_of(text):
    """What a page says of the part of the profile that it shows; nothing where it shows all."""
    said = re.findall(r'<p class="missing" id="part">(.*?)</p>', text)
    assert bool(said) == ("<title>Run smoke, a part</title>" in text)
    return html.unescape("".join(said))


def test_a_part_of_the_tree_is_called_a_part_and_what_else_is_there_is_counted(run):
    asked = {"seeds": [0], "stages": ["prune"]}
    table.read(run, ["teacher", "teacher-imp"], [0]).to_csv(run / "sweep.csv", index=False)
    said = part_of(text := written(run, asked))
    assert "2 of the profile's 16 nodes: teacher, teacher-imp; seed 0. 14 of the others stand in this folder" in said
    assert f"<code>{AGAIN}</code> makes all nodes" in said and "What is missing" not in text
    assert sorted(shown(text)) == ["teacher", "teacher-imp"]
    (run / "seed0" / "teacher-svd" / names.METRICS).unlink()
    assert "13 of the others stand" in part_of(written(run, asked))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"seeds": [0]}, "8 of the profile's 24 nodes: teacher, teacher-kd, teacher-imp, teacher-svd, teacher-kd-imp"),
        ({"seeds": [1, 2]}, "16 of the profile's 24 nodes"),
        ({"stages": []}, "3 of the profile's 24 nodes: teacher; seeds 0–2. 7 of the others stand"),
        ({"stages": ["prune", "int8"]}, "6 of the profile's 24 nodes: teacher, teacher-imp, teacher-int8"),
        ({}, ""),
        ({"stages": ["distill", "prune", "svd", "int8"], "seeds": [0, 1, 2, 3]}, ""),
    ],
    ids=str,
)
def test_other_seeds_and_stages_than_the_profiles_are_told_from_all_of_them(run, asked, said):
    profile = {"seeds": [0, 1, 2], "stages": ["distill", "prune", "svd"]}
    found = part_of(written(run, profile | asked, profile=profile))
    assert found.startswith(f"This page shows a part: {said}") if said else not found


def test_a_table_that_is_older_than_a_node_is_not_shown(run):
    rows = table.read_table(run / "sweep.csv")
    rows.assign(test_accuracy=0.123).to_csv(run / "sweep.csv", index=False)
    assert "12.30" in written(run)
    newer = (run / "sweep.csv").stat().st_mtime + 10
    os.utime(run / "seed0/teacher" / names.METRICS, (newer, newer))
    text = written(run)
    assert "12.30" not in text and "The table of all nodes." in text and len(shown(text)) == 16


def test_only_chapters_make_a_page_too(run):
    with_chapter(run, whole=False)
    for name in ENOUGH:
        (run / name).unlink()
    shutil.rmtree(run / "seed0")
    text = written(run, notebooks=[CHAPTER, ROOT / "notebooks" / "03_prune.ipynb"], whole=False)
    assert "No node is there yet." in text and "<li>Of seed 0: all nodes.</li>" in text
    assert "<li>Chapter “2. Knowledge distillation”. Its notebook, as far as it came, is linked below.</li>" in text
    assert "<li>Chapter “3. Iterative magnitude pruning”.</li>" in text and "It was not run." in text
    rendered = (run / "chapters" / CHAPTER.stem / run_page.RENDERED).read_text(encoding="utf-8")
    assert "was not run to its end" in rendered


def test_a_chapter_that_failed_shows_its_error_and_nothing_in_it_can_break_the_page(run):
    folder = with_chapter(run, whole=False)
    notebook = json.loads(CHAPTER.read_text(encoding="utf-8"))
    error = {"output_type": "error", "ename": "ValueError", "evalue": "<b id=bad>", "traceback": ["<b id=bad>"]}
    notebook["cells"][4]["outputs"] = [error]
    notebook["cells"][0]["source"] = "# 2. <b id=bad>\n\n**Question.** Is <script>alert(1)</script> shown?"
    (folder / "notebook.ipynb").write_text(json.dumps(notebook))
    text = written(run, notebooks=[CHAPTER])
    assert "<b id=bad>" not in text and "<script>alert" not in text
    rendered = (folder / run_page.RENDERED).read_text(encoding="utf-8")
    assert "&lt;b id=bad&gt;" in rendered and "<script" not in rendered


def test_the_time_that_the_command_took_is_said(run):
    (run / time_left.FILE).write_text('{"took": 720.4}')
    assert "The last command took 12 minutes." in written(run)


def test_a_page_that_cannot_be_made_is_said_and_the_old_one_stays(run):
    assert run_page.attempt(run, STUDY, STUDY, [], AGAIN, True).startswith("runs/smoke/index.html: the table")
    before = (run / run_page.INDEX).read_bytes()
    (run / "sweep.csv").write_bytes(b"\xff\xfe")
    said = run_page.attempt(run, STUDY, STUDY, [], AGAIN, True)
    assert re.fullmatch(r"runs/smoke/index.html was not written: CheckpointError: \S+sweep.csv: not a table .*", said)
    assert (run / run_page.INDEX).read_bytes() == before and "\n" not in said


def test_without_the_extra_the_page_says_which_command_brings_the_explorer(run, monkeypatch):
    def absent(*_):
        raise ImportError("No module named 'altair'")

    monkeypatch.setattr(run_page.chart, "page", absent)
    (run / run_page.EXPLORER).write_text("of another table")
    text = written(run)
    assert "<code>make explorer</code> installs it" in text and f"<code>{AGAIN}</code> puts it here" in text
    assert "<iframe" not in text and not (run / run_page.EXPLORER).exists()


def test_the_explorer_is_over_the_nodes_of_the_run_and_its_commands_need_no_study(run, monkeypatch):
    given = []
    monkeypatch.setattr(run_page.chart, "page", lambda rows, *_: given.append(rows) or "<p>chart</p>")
    text = written(run)
    assert (run / run_page.EXPLORER).read_text() == "<p>chart</p>" and f'src="{run_page.EXPLORER}"' in text
    (rows,) = given
    expected = pd.read_csv(run / "sweep.csv").set_index("node")
    assert set(rows["node"]) == set(expected.index) and set(rows["study"]) == {"smoke"}
    assert rows.set_index("node")["bytes"].to_dict() == expected["bytes_file"].to_dict()
    assert "make evaluate MODEL=runs/smoke/seed0/teacher-imp/model.slnc" in rows["command"].tolist()


@pytest.mark.long
@pytest.mark.parametrize("width", [browser.PHONE, browser.DESK])
def test_in_a_browser_heads_sort_the_table_and_the_page_does_not_scroll_sideways(run, tmp_path, chromium, width):
    with_chapter(run)
    page = tmp_path / "page.html"
    page.write_text(written(run, notebooks=[CHAPTER]), encoding="utf-8")
    browser.open_page(chromium, page, width)

    def nodes():
        return [each.text for each in chromium.find_elements("css selector", "#nodes tbody .soft")]

    first, heads = nodes(), chromium.find_elements("css selector", "#nodes button")
    (head,) = [each for each in heads if each.text == "test accuracy %"]
    chromium.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", head)
    head.click()
    up = nodes()
    head.click()
    summary = table.summary(table.read_table(run / "sweep.csv")).sort_values("bytes_file", kind="stable")
    shown_accuracy = (100 * summary["test_accuracy"]).round(2)
    assert first == summary["node"].tolist()
    assert up == summary.assign(shown=shown_accuracy).sort_values("shown", kind="stable")["node"].tolist()
    assert nodes()[0] in summary.loc[shown_accuracy == shown_accuracy.max(), "node"].tolist()
    assert chromium.find_element("css selector", "[aria-sort]").text == "test accuracy %"
    assert browser.too_wide(chromium, width) == [] and all(browser.pictures(chromium))
    assert browser.console(chromium) == []
