"""Chromium without a window, at the width of a phone and of a desk; a test that needs it is skipped without it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["DESK", "PHONE", "chromium", "complaints", "open_page", "overflowing"]

PHONE, DESK = 390, 1280
_BINARIES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """A driven browser; skips where Selenium, Chromium or its driver is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="Selenium is missing: pip install selenium")
    binary = next(filter(None, map(shutil.which, _BINARIES)), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("Chromium or its driver is missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driven = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield driven
    finally:
        driven.quit()


def open_page(browser: Any, url: str, width: int, *, dark: bool = False) -> None:
    """Opens a page at a width in CSS pixels, light or dark."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(url)


def overflowing(browser: Any) -> list[str]:
    """Elements that reach beyond the right edge of the page, and text that does not fit its element."""
    return browser.execute_script(
        """
        const edge = document.documentElement.clientWidth;
        const wide = document.documentElement.scrollWidth > edge ? ["the page"] : [];
        for (const one of document.body.querySelectorAll("*")) {
          const box = one.getBoundingClientRect();
          if (box.width && (box.right > edge + 1 || box.left < -1)) wide.push(one.outerHTML.slice(0, 120));
          const inside = one.clientWidth && one.scrollWidth > one.clientWidth + 1;
          if (inside) wide.push("inside " + one.outerHTML.slice(0, 120));
        }
        return wide;
        """
    )


def complaints(browser: Any) -> list[str]:
    """What the browser wrote to its console since it was asked last."""
    return [f"{one['level']}: {one['message']}" for one in browser.get_log("browser")]
