"""A page in headless Chromium, without a driver: a script is put into a copy of it, and what it finds is read back."""

import functools
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 120
FLAGS = ("--headless", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--no-sandbox")
FRAME = """<!doctype html><body style="margin:0">
<iframe src="page.html{fragment}" width="{width}" height="900"></iframe>
<pre id="found"></pre><script>
addEventListener("message", event => document.getElementById("found").textContent = JSON.stringify(event.data));
</script></body>"""
PROBE = """<script>addEventListener("load", async () => {{
  const wait = async (so, most = 200) => {{ while (!so() && most--) await new Promise(go => setTimeout(go, 20)); }};
  try {{ parent.postMessage({{found: await (async () => {{ {script} }})()}}, "*"); }}
  catch (error) {{ parent.postMessage({{error: String(error)}}, "*"); }}
}});</script>"""


@functools.cache
def chromium() -> str:
    """The browser's path; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or pytest.skip("no Chromium here: Debian's package is chromium")


def ask(page: str, folder: Path, script: str, width: int = 1000, fragment: str = "") -> tuple[object, list[str]]:
    """What ``script``, a body of an async function, returns in ``page`` at a width in pixels, and the console's lines.

    The script may call ``wait(condition)``. Files are written into ``folder``. AssertionError, if the script fails.
    """
    before, end, after = page.rpartition("</body>")
    (folder / "page.html").write_text(before + PROBE.format(script=script) + end + after, encoding="utf-8")
    (folder / "frame.html").write_text(FRAME.format(width=width, fragment=fragment), encoding="utf-8")
    command = [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--dump-dom"]
    command += ["--virtual-time-budget=20000", (folder / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    (said,) = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.S) or [""]
    answer = json.loads(html.unescape(said) or '{"error": "the page has not answered"}')
    assert "error" not in answer, answer["error"]
    return answer.get("found"), [line for line in done.stderr.splitlines() if "CONSOLE" in line]
