"""The OpenAPI document: it names every route, and its schemas are sound. Every other test of the API holds each answer
against it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator
from starlette.routing import Route

from proxy.admin.api import Api, api_routes
from proxy.admin.openapi import document
from tests.admin.watched import Watched
from tests.support.pulls import get

READS = ("status", "flights", "images", "evictions", "pulls", "savings", "openapi.json")


def test_every_route_is_in_the_document_and_nothing_else(watched: Watched) -> None:
    served = {(method, route.path) for route in _routes() for method in route.methods or () if method != "HEAD"}
    described = {(method, path) for method, path in watched.document.operations if path.startswith("/api/")}
    assert described == served


@pytest.mark.parametrize("noun", READS)
def test_what_can_be_asked_without_a_name_answers_as_it_is_described(watched: Watched, noun: str) -> None:
    watched.read(noun)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_and_metrics_answer_as_they_are_described(watched: Watched, path: str) -> None:
    url = watched.millpond.admin_url + path
    watched.document.check("GET", url, get(url))


def test_every_blob_is_hashed_as_it_is_described(watched: Watched) -> None:
    assert "summary" in watched.rows("cache/verify")[-1]


def test_without_targets_the_ecr_part_says_so(watched: Watched) -> None:
    assert "no ecr.targets" in watched.read("ecr", 404)["error"]


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    made = document()
    for schema in _schemas(made):
        Draft202012Validator.check_schema(schema)
    names = set(made["components"]["schemas"])
    used = {each["$ref"].rpartition("/")[2] for each in _objects(made) if "$ref" in each}
    assert used <= names
    assert names - used == set(), "described, and used by nothing"


def test_a_key_that_is_not_described_is_found(watched: Watched) -> None:
    """The check checks."""
    answer = watched.read("flights")
    with pytest.raises(AssertionError, match="unexpected"):
        watched.document.check_as("Error", {"error": "", "more": answer})


def test_every_operation_has_a_summary_and_every_change_wants_the_token(watched: Watched) -> None:
    for path, item in watched.document.document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], path
            assert (operation.get("security") == [{"token": []}]) == (method == "post"), path


def _routes() -> list[Route]:
    """Of the API, whatever it speaks for: that is only asked when somebody calls."""
    return api_routes(Api(*[cast("Any", None)] * len(fields(Api))), bool)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _objects(each)
    elif isinstance(value, list):
        for each in value:
            yield from _objects(each)


def _schemas(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from made["components"]["schemas"].values()
    for each in _objects(made["paths"]):
        if "schema" in each:
            yield each["schema"]
