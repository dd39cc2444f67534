"""The page of ``tqvec demo --page`` in a process of its own, and a headless Chromium that shows it.

python tests/page_browser.py docs/images/page.png       # the picture of the documentation
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 240  # seconds: kernels may have to be compiled, on a machine that has other work
FLAGS = [
    "--no-sandbox",  # Chromium has none for root
    "--no-first-run",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WATCH = """\
import sys

log = open({log!r}, "a", buffering=1)
print("watching", file=log)


def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print(event, arguments[1:] if event == "socket.connect" else arguments, file=log)


sys.addaudithook(watch)
"""


class Served:
    """A page that is served.

    Attributes
    ----------
    url : str
    process : subprocess.Popen
    """

    def __init__(self, process, url):
        self.process, self.url = process, url

    def interrupt(self):
        """Press Ctrl-C; return the exit status and what was printed to standard error."""
        self.process.send_signal(signal.SIGINT)
        _, error = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, error


@contextmanager
def serve_page(folder, *options):
    """Run ``tqvec demo --page`` on a free port.

    ``folder/connections`` has the line "watching" of each process, and then the connections that it opens.
    """
    (folder / "sitecustomize.py").write_text(WATCH.format(log=str(folder / "connections")))
    paths = [str(folder), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tqvec", "demo", "--page", "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        lines = iter(process.stdout.readline, "")
        url = next((match[0] for line in lines if (match := re.match(r"http://\S+", line))), None)
        assert url, process.communicate()[1]
        yield Served(process, url)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def open_browser(playwright):
    """Start a headless Chromium: that of the system, or else Playwright's; None where there is neither."""
    path = shutil.which("chromium") or playwright.chromium.executable_path
    if not Path(path).exists():
        yield None
        return
    browser = playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=1000 * PATIENCE)
    try:
        yield browser
    finally:
        browser.close()


def take_picture(path):
    """Write a picture of the first tab."""
    from tempfile import TemporaryDirectory

    from playwright.sync_api import sync_playwright

    with (
        TemporaryDirectory() as folder,
        serve_page(Path(folder)) as served,
        sync_playwright() as playwright,
        open_browser(playwright) as browser,
    ):
        page = browser.new_page(viewport={"width": 1200, "height": 1040})
        page.goto(served.url)
        page.locator("#results img").wait_for(timeout=1000 * PATIENCE)
        page.wait_for_timeout(1000)  # Gradio's own movements
        page.screenshot(path=path)


if __name__ == "__main__":
    take_picture(sys.argv[1])
