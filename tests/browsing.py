"""Chromium for tests, where it is installed; in CI its absence is a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REQUIRED = os.environ.get("RLHF_MINI_BROWSER") == "required"  # set by .ci/run: there, a skip would hide a missing part


def missing() -> str:
    """Why the browser tests cannot run here; empty if they can."""
    if not CHROMIUM:
        return "no chromium on the PATH"
    try:
        import jupyterlab  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return str(error)
    return ""


def skip_without_browser() -> None:
    """Skip the module that calls it, unless the browser tests are required."""
    if (why := missing()) and not REQUIRED:
        pytest.skip(f"browser tests need JupyterLab, Playwright and Chromium: {why}", allow_module_level=True)


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
