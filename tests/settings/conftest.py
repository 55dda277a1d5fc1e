"""Loading settings as the program does, without this machine's own environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.settings import Settings, SettingsError, load

Load = Callable[..., Settings]
Refusal = Callable[..., list[str]]


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """Settings of a configuration file's text and environment variables."""

    def loaded_(text: str = "", /, **environ: str) -> Settings:
        file = tmp_path / "millpond.yaml"
        file.write_text(text)
        return load(file, environ)

    return loaded_


@pytest.fixture
def refusal(loaded: Load) -> Refusal:
    """The problems that a file's text and environment variables are refused with, a line each."""

    def refusal_(text: str = "", /, **environ: str) -> list[str]:
        with pytest.raises(SettingsError) as caught:
            loaded(text, **environ)
        return [line.strip() for line in str(caught.value).splitlines()[1:]]

    return refusal_
