"""The explorer: its rows are those that are published, its front is Pareto's, and it works in a browser."""

import copy
import re
import shlex

import browser
import pytest
from projects import ROOT

from engine.settings import parameters
from studylib.experiments import explorer
from studylib.experiments.frontier_marks import MARKS
from studylib.experiments.published import Figures
from studylib.plots import explorer as plots
from studylib.results import claims, statistics

MODELS = ROOT / "figures" / "models"
CHOSEN = [{"data": "cifar10"}, {"data": "digits"}, {"data": "cifar10", "bits": "32"}]
CHOSEN += [{"data": "cifar10", "distilled": "false", "least": 85}]
CHOSEN += [{"data": "mnist_5k", "pruned": "true"}, {"study": "small_files-densenet_6bit", "data": "cifar10"}]
MOST_BYTES = 2_000_000
OFFERED = "return [...document.querySelectorAll(`[name=${arguments[0]}] option:enabled`)].map(each => each.value)"
long = pytest.mark.long  # what needs the extra that make explorer installs


@pytest.fixture(scope="module")
def there():
    return Figures(ROOT / "figures")


@pytest.fixture(scope="module")
def rows(there):
    return explorer.rows(there)


@pytest.fixture(scope="module")
def page(rows):
    for package in ("altair", "vl_convert"):
        pytest.importorskip(package, reason=f"{package} is not installed: make explorer does that")
    return plots.page(rows, MARKS, claims.PAPER_DATA)


def chosen_of(rows, least=0, **wanted):
    """The rows that filters leave, by pandas."""
    held = rows["validation"].fillna(0) >= least
    for column, value in wanted.items():
        among = rows[column].astype(str).str.lower().str.split(plots.BOTH)
        held &= among.map(lambda each, value=value: value in each)
    return rows[held]


def front_of(rows):
    """Names of those on the front, by validation accuracy."""
    rows = rows.dropna(subset="validation")
    best = rows[statistics.pareto(rows, "bytes", "validation")]
    return set(zip(best["study"], best["node"], strict=True))


def test_every_node_and_every_small_file_of_every_study_is_a_row(there, rows):
    expected = {(study, node) for study in there.studies for node in there.nodes(study)["node"]}
    points = {
        (study, name) for study in there.studies for name in there.rows(study, "frontier", "frontier").get("name", [])
    }
    assert len(points) > 20 and not points & expected
    found = [(study, row.node) for row in rows.itertuples() for study in row.study.split(plots.BOTH)]
    assert sorted(found) == sorted(expected | points)


def test_a_published_file_that_several_studies_go_on_from_is_one_row_of_all_their_names(rows):
    again = rows[rows["techniques"] == explorer.AGAIN].set_index("bytes")
    assert again["study"].to_dict() == {
        190_038: "small_files-densenet and small_files-densenet_6bit",
        190_335: "cifar10-short_student and small_files-three_teachers and small_files-three_teachers_slow",
    }
    assert not rows.duplicated(["data", "bytes", "accuracy", "validation"]).any()


def test_the_explorer_the_first_screen_and_the_book_choose_the_same_file(there, rows):
    for held in (70, 85, 90):
        files = there.files[there.files["val_accuracy"] >= held / 100].sort_values("bytes", kind="stable")
        ours = chosen_of(rows, data="cifar10", least=held).sort_values("bytes").iloc[0]
        assert (ours["study"], ours["node"], ours["bytes"]) == tuple(files.iloc[0][["study", "node", "bytes"]])


def test_every_published_file_is_one_row_with_the_command_that_evaluates_it(there, rows):
    files = rows[rows["file"] != ""].set_index("file")
    classifiers = {name: of for name, of in there.models.items() if "test_accuracy" in of}  # others generate
    assert sorted(files.index) == sorted(classifiers)
    for name, of in classifiers.items():
        named = "" if of["dataset"] in ("cifar10", "digits", "mnist_5k") else f' DATASET="{of["dataset"]}"'
        assert files.loc[name, "command"] == f"make evaluate MODEL=figures/models/{name}{named}"
        if files.loc[name, "file_alone"]:
            assert f"{of['bytes']:,} bytes, {100 * of['test_accuracy']:.2f} %" in files.loc[name, "file_alone"]
        else:
            assert (files.loc[name, "bytes"], files.loc[name, "accuracy"]) == (of["bytes"], 100 * of["test_accuracy"])


def test_a_file_that_is_not_published_has_a_command_that_makes_it_first(rows):
    made = rows[rows["file"] == ""]
    for row in made.to_dict("records"):
        study, evaluate = row["command"].split(" && ")
        given = dict(word.split("=") for word in shlex.split(study)[2:])
        parameters.load(given["PROFILE"], variant=given.get("VARIANT", ""))
        run = parameters.run_name(given["PROFILE"], given.get("VARIANT", ""))
        assert run in row["study"].split(plots.BOTH)
        assert evaluate.startswith(f"make evaluate MODEL=runs/{run}/") and f"/{row['node']}/" in evaluate
    assert len(made) > 50 and made["command"].str.contains("/chapters/08_frontier/points/").any()


def test_nodes_of_several_seeds_are_their_means(there, rows):
    for study in ("digits", "cifar10"):
        mean = there.nodes(study).groupby("node")[["test_accuracy", "bytes_file", "bytes_nonzero"]].mean()
        own = rows[(rows["study"] == study) & rows["node"].isin(mean.index)].set_index("node").loc[mean.index]
        assert (100 * mean["test_accuracy"]).tolist() == pytest.approx(own["accuracy"].tolist(), abs=1e-9)
        assert mean[["bytes_file", "bytes_nonzero"]].values.tolist() == own[["bytes", "bytes_nonzero"]].values.tolist()
    assert set(rows.loc[rows["study"] == "mnist", "seeds"]) == {"0–9"}


def test_what_a_file_is_measured_to_have_is_what_its_node_has(there):
    nodes = there.nodes("digits").query("seed == 0").set_index("node")
    expected = nodes.loc["teacher-imp-int8", ["bytes_nonzero", "multiply_adds"]].to_dict()
    assert explorer._measured(MODELS / "digits-densenet16-z89.3-8bit.slnc") == expected


def test_small_files_say_how_they_were_made(rows):
    small = rows[rows["node"].str.endswith("bit")]
    assert (small["bits"] < 32).all() and (small["zeros"] > 50).all() and small["pruned"].all()
    known = small[small["file"] != ""]
    assert known[["bytes_nonzero", "multiply_adds"]].notna().all(axis=None) and len(known) > 20
    assert (known["bytes_nonzero"] < known["bytes"] * 1.2).all()
    assert {"DenseNet of growth 6", "ConvNet of width 16", "student of DenseNet-22"} <= set(small["network"])


@pytest.mark.parametrize(("seeds", "said"), [([0], "0"), ([2, 1, 0], "0–2"), ([0, 3, 4], "0, 3–4"), ([], "")])
def test_seeds_in_a_row_are_a_span(seeds, said):
    assert explorer.spans(seeds) == said


@pytest.mark.parametrize(("data", "said"), [("cifar10", ""), ("svhn", ' DATASET="svhn"'), ("images:a b.npz", None)])
def test_a_command_names_the_data_where_another_set_has_such_images(data, said):
    row = {"node": "teacher", "folder": "seed0/teacher", "seeds": "0"}
    command = explorer._file("mine", {"data": {"name": data}}, row, None, {})["command"]
    assert command.endswith("model.slnc" + (f' DATASET="{data}"' if said is None else said))


def test_a_validation_accuracy_that_is_not_known_is_said(rows):
    shown = plots.shown_rows(rows.head(2).assign(validation=[float("nan"), 88.125]))
    assert sorted(row["validated"] for row in shown) == ["88.12 %", "not known"]


def test_every_mark_of_others_says_what_its_bytes_count():
    assert all(mark.counted for mark in MARKS)


@long
def test_the_page_asks_for_nothing_from_outside_and_is_small(page):
    text = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"https?://|//\w|@import|url\(", text)
    assert not re.search(r"<[^>]*\ssrc=", text) and re.findall(r'href="([^"]*)"', text) == ["data:,"]
    assert 'id="back"' not in text
    assert "default-src 'none'" in text and len(page.encode()) < MOST_BYTES


@long
def test_the_table_has_every_row_without_any_script(page, rows):
    body = re.search(r'<table id="table".*?</table>', page, flags=re.S)[0]
    said = re.findall(r'<th role="rowheader".*?<span class="soft">(\S+) of (.+?)</span>', body, flags=re.S)
    assert sorted(said) == sorted(zip(rows["node"], rows["study"], strict=True))


@long
def test_every_control_has_a_label_and_every_value_its_option(page, rows):
    form = re.search(r"<form.*?</form>", page, flags=re.S)[0]
    labelled = re.findall(r"<label[^>]*>(.*?)</label>", form, flags=re.S)
    assert sum(len(re.findall(r"<select|<input", each)) for each in labelled) == len(re.findall("<select|<input", form))
    for name in ("data", "study", "network", "bits"):
        options = re.search(rf'<select name="{name}">(.*?)</select>', form, flags=re.S)[1]
        values = set(re.findall(r'value="([^"]*)"', options)) - {""}
        assert values == {each for value in rows[name].astype(str) for each in value.split(plots.BOTH)}, name


@long
def test_a_name_cannot_end_the_script_or_the_table(page, rows):
    bad = rows.head(3).assign(node="</script><b id=bad>", study="<i id=bad>")
    made = plots.page(bad, MARKS, claims.PAPER_DATA)
    assert "id=bad>" not in made and "&lt;b id=bad&gt;" in made


@pytest.mark.parametrize("bad", ["empty", "narrow"])
def test_rows_that_are_none_are_refused(rows, bad):
    rows = rows.head(0) if bad == "empty" else rows.drop(columns="seeds")
    with pytest.raises(ValueError, match=r"rows without (rows|seeds): expected one for each network with study, data"):
        plots.page(rows, MARKS, claims.PAPER_DATA)


def front_by_vega_lite(rows, wanted):
    """Names of those on the front: what vl-convert draws of the chart's line, a point each."""
    vl_convert = pytest.importorskip("vl_convert", reason="vl_convert is not installed: make explorer does that")
    shown = plots.shown_rows(rows)
    spec = copy.deepcopy(plots.chart(shown, [], "cifar10"))
    for param in spec["params"]:
        param["value"] = wanted.get(param["name"].removeprefix("f_"), param["value"])
    (line,) = [layer for layer in spec["layer"] if layer["mark"]["type"] == "line"]
    line["mark"] = {"type": "point"}
    line["encoding"] = {"x": line["encoding"]["x"], "y": line["encoding"]["y"], "description": {"field": "id"}}
    svg = vl_convert.vegalite_to_svg(spec | {"layer": [line], "width": 300})
    found = [shown[int(i)] for i in re.findall(r'aria-label="(\d+)" role="graphics-symbol"', svg)]
    return {(row["study"], row["node"]) for row in found}


@long
@pytest.mark.parametrize("wanted", CHOSEN, ids=str)
def test_the_front_by_vega_lite_is_paretos_of_what_the_filters_leave(rows, wanted):
    left = chosen_of(rows, **wanted)
    assert front_by_vega_lite(rows, wanted) == front_of(left) and len(left) > len(front_of(left)) > 0


@long
def test_files_alike_are_both_on_the_front_and_larger_or_worse_ones_are_not(rows):
    pairs = [(10, 50), (20, 50), (20, 60), (20, 60), (20, 55), (30, 60), (30, 59), (40, 61)]
    made = rows[rows["data"] == "cifar10"].head(len(pairs)).assign(node=[f"n{i}" for i in range(len(pairs))])
    made[["bytes", "validation"]] = [(1000.0 * size, float(accuracy)) for size, accuracy in pairs]
    assert {node for _, node in front_by_vega_lite(made, {})} == {"n0", "n2", "n3", "n7"}
    assert front_by_vega_lite(made, {}) == front_of(made)
    assert {node for _, node in front_by_vega_lite(made, {"least": 60})} == {"n2", "n3", "n7"}
    made.loc[made["node"].isin(["n0", "n2"]), "validation"] = float("nan")  # is on no front, whatever it would be
    assert {node for _, node in front_by_vega_lite(made, {})} == {"n3", "n7"} == {n for _, n in front_of(made)}


@long
def test_the_command_writes_the_page_and_says_its_size(rows, page, tmp_path, monkeypatch, capsys):
    file = tmp_path / "new" / "explorer.html"
    command = ["explorer", str(ROOT / "figures"), str(file)]
    monkeypatch.setattr("sys.argv", [*command, "--back", "explore.html", "the book"])
    monkeypatch.setattr(explorer, "rows", lambda there: rows if there.studies else None)
    explorer.main()
    assert '<a href="explore.html" target="_top">Back to the book</a>' in file.read_text(encoding="utf-8")
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", command)
    explorer.main()
    assert file.read_text(encoding="utf-8") == page
    assert capsys.readouterr().out == f"{file}: {len(rows)} networks and files, {len(page.encode()) / 1e6:.1f} MB\n"


def count(driver):
    return driver.find_element("id", "count").text


def lines(driver):
    """The rows that can be seen in the table: their names, and whether each is on the front."""
    return driver.execute_script(
        """const seen = [...document.querySelectorAll("#table tbody tr")].filter(line => line.offsetParent);
        return seen.map(line => [line.querySelector("th .soft").textContent, line.matches(".front")]);"""
    )


def choose(driver, **wanted):
    """Sets filters as a reader does: keys that go down a list, or are typed, and presses."""
    from selenium.webdriver.common.keys import Keys

    for name, value in wanted.items():
        control = driver.find_element("name", name)
        if control.tag_name == "select":
            offered = driver.execute_script(OFFERED, name)
            control.send_keys(Keys.HOME + Keys.ARROW_DOWN * offered.index(value))
        else:
            control.click() if value is True else control.send_keys(str(value))


def names_of(nodes):
    return {f"{node} of {study}" for study, node in nodes}


@pytest.fixture
def opened(page, chromium, tmp_path):
    """Opens the page in a browser, drawn; its console is empty when the test ends."""
    file = tmp_path / "explorer.html"
    file.write_text(page, encoding="utf-8")

    def opening(width=browser.DESK, fragment=""):
        browser.open_page(chromium, file, width, fragment)
        browser.wait(chromium, lambda driver: "on the front" in count(driver))
        return chromium

    yield opening
    assert browser.console(chromium) == []


@long
@pytest.mark.parametrize("wanted", CHOSEN, ids=str)
def test_filters_change_what_the_browser_shows(opened, rows, wanted):
    driver, left = opened(), chosen_of(rows, **wanted)
    front = front_of(left)
    choose(driver, **wanted)
    said = f"{len(left)} of {len(rows)} networks, {len(front)} on the front"
    browser.wait(driver, lambda _: count(driver).startswith(said))
    assert sorted(name for name, _ in lines(driver)) == sorted(names_of(left[["study", "node"]].values))
    choose(driver, front=True)
    browser.wait(driver, lambda _: len(lines(driver)) == len(front))
    assert {name for name, on_front in lines(driver) if on_front} == names_of(front)


@long
def test_a_press_shows_all_again(opened):
    driver = opened()
    first = count(driver), lines(driver)
    choose(driver, least=100.5)
    browser.wait(driver, lambda _: count(driver).startswith("0 of ") and not lines(driver))
    assert driver.find_elements("css selector", ".mark-symbol.role-mark path[aria-label]") == []
    driver.find_element("css selector", "button[type=reset]").click()
    browser.wait(driver, lambda _: (count(driver), lines(driver)) == first)


@long
def test_only_what_the_chosen_data_have_is_offered(opened, rows):
    driver = opened()
    choose(driver, study="cifar10")
    choose(driver, data="mnist_5k")
    assert driver.execute_script(OFFERED, "study") == ["", "mnist"]
    assert driver.execute_script(OFFERED, "bits") == ["", "32", "8"]
    said = f"{(rows['data'] == 'mnist_5k').sum()} of {len(rows)} networks"
    browser.wait(driver, lambda _: count(driver).startswith(said))


@long
def test_a_link_opens_the_page_with_its_filters_set(opened, rows):
    driver = opened(fragment="#data=digits&study=digits&front=true")
    expected = names_of(front_of(chosen_of(rows, data="digits", study="digits")))
    assert {name for name, _ in lines(driver)} == expected
    drawn = driver.find_elements("css selector", ".mark-symbol.role-mark path")
    assert len(drawn) == len(expected)  # no stars, which are of other data


@long
def test_a_page_of_other_data_has_no_marks(rows, page):
    digits = plots.page(rows[rows["study"] == "digits-two_objectives"], MARKS, claims.PAPER_DATA)
    assert "LilNetX" in page and "LilNetX" not in digits and "digits-two_objectives" in digits


@long
def test_pointing_at_a_network_names_its_numbers_and_pressing_it_finds_its_row(opened, rows):
    from selenium.webdriver import ActionChains

    driver = opened()
    point = driver.execute_script(
        """document.getElementById("chart").scrollIntoView({block: "center"});
        const on_top = each => { const box = each.getBoundingClientRect();
          return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === each };
        return [...document.querySelectorAll(".mark-symbol.role-mark path")].find(on_top);"""
    )
    ActionChains(driver).move_to_element(point).perform()
    tip = browser.wait(driver, lambda _: driver.find_elements("css selector", "#vg-tooltip-element.visible"))[0]
    told = [line.find_elements("tag name", "td") for line in tip.find_elements("tag name", "tr")]
    said = {name.text.rstrip(":"): value.text for name, value in told}
    ActionChains(driver).click(point).perform()
    (chosen,) = browser.wait(driver, lambda _: driver.find_elements("css selector", "tr.chosen"))
    assert list(said) == list(plots.HOVER.values())
    assert chosen.find_element("css selector", "th .soft").text == f"{said['node']} of {said['study']}"
    (row,) = rows[(rows["node"] == said["node"]) & (rows["study"] == said["study"])].to_dict("records")
    assert (said["seeds"], said["evaluate it"]) == (row["seeds"], row["command"])
    assert said["file"] == f"{row['bytes']:,.0f} bytes"
    assert said["nonzeros × width"] == f"{row['bytes_nonzero']:,.0f} bytes"
    assert chosen.find_element("tag name", "code").text == row["command"]  # unfolded


@long
@pytest.mark.parametrize("width", [browser.PHONE, browser.DESK])
def test_nothing_scrolls_sideways(opened, width):
    driver = opened(width)
    driver.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.too_wide(driver, width) == [] and driver.execute_script("return innerWidth") == width
