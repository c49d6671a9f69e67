"""A real browser without a window: what it says on its console, what it asks the network for, and how wide a page is."""

import json
import shutil
from contextlib import contextmanager

import pytest

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip


class Browser:
    """Chromium, and the page that it shows."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, width=1280, scheme="light"):
        """Open a file in a window of a width, in light or dark."""
        driver = self.driver
        driver.get_log("performance"), driver.get_log("browser")  # what came before
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        driver.get(path.as_uri())

    def said(self):
        """Return what the page said on its console."""
        return [line["message"] for line in self.driver.get_log("browser")]

    def requested(self):
        """Return the addresses that the page asked for, itself among them; what it holds is not asked for."""
        events = (json.loads(line["message"])["message"] for line in self.driver.get_log("performance"))
        asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        own = [a["request"]["url"] for a in asked if a["documentURL"] == self.driver.current_url]
        return [url for url in own if not url.startswith(("data:", "blob:"))]

    def run(self, script):
        """Return what a script returns."""
        return self.driver.execute_script(script)

    def overflow(self):
        """Return by how many pixels the page is wider than its window."""
        return self.run("const root = document.documentElement; return root.scrollWidth - root.clientWidth")

    def texts(self, selector):
        """Return the texts of the elements of a selector, also of those that are not seen."""
        return self.run(f"return [...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent.trim())")


@contextmanager
def browser(folder):
    """Give a browser whose own files lie in a folder; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium, to look at reports in a browser")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no browser to look at reports with: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for flag in (*_FLAGS, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
