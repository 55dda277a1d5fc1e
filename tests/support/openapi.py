"""What a Millpond says of its API, held against what it answers."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator

from tests.support.pulls import Reply, get

_DOCUMENT: Final = "/api/v1/openapi.json"


class Document:
    """An OpenAPI document of the admin port."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._components = strict(document["components"])

    @classmethod
    def of(cls, url: str) -> Document:
        """That of the admin port at `url`."""
        return cls(get(url + _DOCUMENT).json())

    @property
    def operations(self) -> set[tuple[str, str]]:
        """Method and path of each."""
        return {(method.upper(), path) for path, item in self.document["paths"].items() for method in item}

    def check(self, method: str, url: str, reply: Reply) -> None:
        """As `check_answer`."""
        self.check_answer(method, url, reply.status, reply.headers["content-type"], reply.text)

    def check_answer(self, method: str, url: str, status: int, content_type: str, text: str) -> None:
        """Raises AssertionError where the answer is not what the document says: a key too many or too few counts."""
        responses = self.document["paths"][urlsplit(url).path][method.lower()]["responses"]
        told = responses.get(str(status), responses["default"])["content"]
        media_type = content_type.partition(";")[0]
        assert media_type in told, (url, media_type)
        schema = told[media_type]["schema"]
        if media_type == "application/json":
            self._validate(schema, json.loads(text), url)
        elif media_type == "application/x-ndjson":
            for line in text.splitlines():
                if line:
                    self._validate(schema, json.loads(line), url)

    def check_as(self, component: str, value: Any) -> None:
        """The same of one component."""
        self._validate({"$ref": f"#/components/schemas/{component}"}, value, component)

    def _validate(self, schema: dict[str, Any], value: Any, where: str) -> None:
        validator = Draft202012Validator({**strict(schema), "components": self._components})
        errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]
        assert not errors, (where, errors, value)


def strict(schema: Any) -> Any:
    """The same with no other keys than those that are described."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    return found
