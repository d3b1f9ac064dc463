"""The book as its readers have it: in a browser, at a desk and on a phone."""

import browser
import pytest
from projects import ROOT

from studylib.experiments.published import Figures

pytestmark = pytest.mark.long
CHAPTER_6 = "notebooks/06_moo.html"


@pytest.fixture
def opened(book, chromium):
    """Opens a page of the book by its name."""

    def opening(name, width=browser.DESK, fragment=""):
        browser.open_page(chromium, book[0] / name, width, fragment)
        return chromium

    return opening


def where(driver, book) -> str:
    """The page that is open, from the book's folder."""
    return driver.current_url.removeprefix(f"{book[0].as_uri()}/")


def seen(driver, identity) -> bool:
    """Whether the place of this name is on the screen."""
    inside = "const {top} = document.getElementById(arguments[0]).getBoundingClientRect(); return top >= 0 && top < 900"
    return driver.execute_script(inside, identity)


@pytest.mark.parametrize("width", [browser.PHONE, browser.DESK])
def test_every_page_shows_its_pictures_complains_of_nothing_and_never_scrolls_sideways(book, opened, width):
    pages, wrong, shown = sorted(book[0].rglob("*.html")), {}, 0
    for page in pages:
        driver = opened(page.relative_to(book[0]), width)
        pictures = browser.pictures(driver)
        shown += len(pictures)
        found = browser.too_wide(driver, width) + browser.console(driver) + [each for each in pictures if not each]
        wrong |= {str(page): found} if found else {}
    assert wrong == {} and len(pages) > 40 and shown > 90


def test_what_is_wrong_with_a_page_is_seen(opened):
    driver = opened("index.html", browser.PHONE)
    driver.execute_script(
        """document.querySelector("article").insertAdjacentHTML("beforeend",
        "<div id=wide style='width: 600px'>-</div><img src='nowhere.png'>"); console.error("a complaint");"""
    )
    browser.wait(driver, lambda driver: 0 in browser.pictures(driver))
    assert any('id="wide"' in each for each in browser.too_wide(driver, browser.PHONE))
    said = " ".join(browser.console(driver))
    assert "a complaint" in said and "nowhere.png" in said


def test_the_search_finds_a_word_of_chapter_6(book, opened):
    driver = opened("index.html")
    field = driver.find_element("css selector", "input.sidebar-search")
    field.send_keys("hypervolume")
    field.submit()
    link = f"#search-results a[href^='{CHAPTER_6}']"
    browser.wait(driver, lambda _: driver.find_elements("css selector", link))[0].click()
    browser.wait(driver, lambda _: where(driver, book).startswith(CHAPTER_6))
    assert "hypervolume" in driver.find_element("tag name", "article").text
    assert browser.console(driver) == []


def test_links_of_the_first_page_lead_where_they_say(book, opened):
    driver = opened("index.html")
    table = "section#where-to-look table a, .sidebar-tree .toctree-l1 > a"
    many = len(driver.find_elements("css selector", table))
    assert many > 25
    for k in range(many):
        driver = opened("index.html")
        links = browser.wait(driver, lambda driver, k=k: driver.find_elements("css selector", table)[k:])
        link = links[0]
        goal = link.get_attribute("href").removeprefix(f"{book[0].as_uri()}/")
        link.click()
        browser.wait(driver, lambda driver, goal=goal: where(driver, book).startswith(goal.removesuffix("#")))
        assert driver.find_element("tag name", "h1").is_displayed()
        _, _, place = goal.partition("#")
        assert not place or browser.wait(driver, lambda driver, place=place: seen(driver, place))


def test_on_a_phone_the_menu_opens_and_leads_to_a_chapter(book, opened):
    driver = opened("index.html", browser.PHONE)
    link = driver.find_element("css selector", f".sidebar-tree a[href='{CHAPTER_6}']")
    on_screen = "return arguments[0].getBoundingClientRect().left >= 0"
    assert not driver.execute_script(on_screen, link)
    driver.find_element("css selector", ".mobile-header label[for='__navigation']").click()
    browser.wait(driver, lambda _: driver.execute_script(on_screen, link))
    link.click()
    browser.wait(driver, lambda _: where(driver, book) == CHAPTER_6)


def test_code_that_is_folded_is_shown_when_it_is_pressed(opened):
    driver = opened(CHAPTER_6)
    fold = driver.find_element("css selector", "details.hide")
    code = fold.find_element("tag name", "pre")
    assert not code.is_displayed()
    fold.find_element("tag name", "summary").click()
    browser.wait(driver, lambda _: code.is_displayed())


def test_a_newcomer_finds_the_smallest_file_at_85_percent(book, opened):
    driver = opened("index.html")
    driver.find_element("link text", "smallest files").click()
    browser.wait(driver, lambda _: where(driver, book) == "explore.html")
    lines = driver.find_elements("css selector", "table.docutils tbody tr")
    rows = [[cell.text for cell in line.find_elements("tag name", "td")] for line in lines]
    kilobytes, _, _, name = next(row for row in rows if float(row[1]) >= 85)
    files = Figures(ROOT / "figures").files
    smallest = files[files["val_accuracy"] >= 0.85].sort_values("bytes").iloc[0]
    assert (name, kilobytes) == (smallest["name"], f"{smallest['bytes'] / 1000:.2f}")


def test_the_explorer_within_the_book_filters_and_opens_on_its_own(book, opened):
    driver = opened("explore.html")
    driver.execute_script("document.querySelector('iframe.explorer').scrollIntoView()")
    driver.switch_to.frame(driver.find_element("css selector", "iframe.explorer"))
    count = browser.wait(driver, lambda _: driver.find_element("id", "count"))
    browser.wait(driver, lambda _: "on the front" in count.text)
    before = count.text
    driver.find_element("name", "least").send_keys("85")
    browser.wait(driver, lambda _: count.text != before and "on the front" in count.text)
    assert int(count.text.split()[0]) < int(before.split()[0])
    assert driver.find_elements("link text", "Back to the book") == []  # it is there
    driver.switch_to.default_content()
    driver.find_element("link text", "the explorer on a page of its own").click()
    browser.wait(driver, lambda _: where(driver, book) == "explorer.html")
    browser.wait(driver, lambda _: "on the front" in driver.find_element("id", "count").text)
    driver.find_element("link text", "Back to the book").click()
    browser.wait(driver, lambda _: where(driver, book) == "explore.html")
    assert browser.console(driver) == []
