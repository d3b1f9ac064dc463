"""Pages in headless Chromium, driven by selenium: Debian's browser and its driver, so that nothing is downloaded."""

import json
import os
import shutil
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
)
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND"  # what a page asks for outside fails, and its console says so
PHONE, DESK = 390, 1200  # pixels
SECONDS = 180  # the longest that anything is waited for, with whatever else is running


def start():
    """A browser, as selenium's driver of it; the test is skipped where a part is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: make book does that")
    chromium, driver = next(filter(None, map(shutil.which, NAMES)), None), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium with its driver here: Debian's packages are chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, ALONE, *(["--no-sandbox"] if os.getuid() == 0 else [])):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver, env=os.environ | {"SE_OFFLINE": "true"}))
    found.set_page_load_timeout(SECONDS)
    found.set_script_timeout(SECONDS)
    return found


def open_page(driver, page: Path, width: int = DESK, fragment: str = "") -> None:
    """Opens a page's file at a width in pixels; on a phone's width as a phone does. What was open before is left."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    calm = {
        "features": [{"name": "prefers-reduced-motion", "value": "reduce"}]
    }  # what moves is not where it is pressed
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", calm)
    driver.get("about:blank")
    console(driver)
    driver.get(page.as_uri() + fragment)


def wait(driver, condition, seconds: float = SECONDS):
    """What ``condition`` of the driver gives as soon as it is true."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(driver, seconds, poll_frequency=0.05).until(condition)


def console(driver) -> list[str]:
    """What the console has said since it was last read."""
    return [json.dumps(line["message"], ensure_ascii=False) for line in driver.get_log("browser")]


def pictures(driver) -> list[int]:
    """Widths of all pictures of the page in pixels of their own: 0 is one that was not loaded."""
    return driver.execute_script("return [...document.images].map(each => each.complete ? each.naturalWidth : 0)")


def too_wide(driver, width: int) -> list[str]:
    """What makes the page scroll sideways: elements that end beyond ``width``, unless a part of it alone scrolls.

    A part is what does not hold the page's heading. A drawer, which is fixed outside the screen, does not count.
    """
    return driver.execute_script(WIDE, width)


WIDE = """
const [width] = arguments, scrolls = /auto|scroll|hidden|clip/, heading = document.querySelector("h1");
const apart = each => { for (; each && each !== document.body; each = each.parentElement) {
  const style = getComputedStyle(each);
  if (style.position === "fixed" || (scrolls.test(style.overflowX) && !each.contains(heading))) return true;
}};
const beyond = each => { const {right, width: wide} = each.getBoundingClientRect(); return wide && right > width + 1; };
const over = [...document.body.querySelectorAll("*")].filter(
  each => beyond(each) && !apart(each.parentElement) && getComputedStyle(each).position !== "fixed");
return over.map(each => each.outerHTML.slice(0, 120));
"""
