"""axe-core, which knows the rules of accessible pages."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final

from playwright.sync_api import Page

# What axe calls these keeps somebody from using the page; minor and moderate findings are matters of taste.
_GRAVE: Final = ("serious", "critical")


def findings(page: Page, within: str = "html") -> list[str]:
    """What is seriously wrong with the page as it is now: rule, element and reason, one a line."""
    page.evaluate(_source())  # by the debugger's door: as a script in the page, its policy would refuse it
    result: dict[str, Any] = page.evaluate("within => axe.run(within, {resultTypes: ['violations']})", within)
    assert result["passes"], "axe has looked at nothing"
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in result["violations"]
        if rule["impact"] in _GRAVE
        for node in rule["nodes"]
    ]


@cache
def _source() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text()
