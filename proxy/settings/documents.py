"""YAML of others, such as the objects of a Helm chart: here because this is where YAML is known."""

from __future__ import annotations

from typing import Any

import yaml


def yaml_documents(text: str) -> list[Any]:
    """The documents of a YAML stream.

    Raises:
        ValueError: it is none.
    """
    try:
        return list(yaml.safe_load_all(text))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None
