"""Names, tags and digests: what the patterns accept is exactly what the specification's grammar has."""

from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.oci.digest import Digest
from proxy.oci.errors import DigestInvalid, MillpondError, NameInvalid, TagInvalid
from proxy.oci.names import Repository, Tag, looks_like_host, parse_reference
from tests.unit import grammar


@given(grammar.near_names)
def test_a_repository_name_is_accepted_exactly_when_the_grammar_has_it(text: str) -> None:
    """Row 37; S."""
    try:
        found = Repository.parse("ghcr.io", text)
    except NameInvalid:
        assert not grammar.is_name(text)
    else:
        assert grammar.is_name(text)
        assert found == Repository("ghcr.io", text)
        assert str(found) == f"ghcr.io/{text}"


@given(grammar.names)
def test_docker_hubs_short_names_and_only_those_get_library_in_front(name: str) -> None:
    expected = name if "/" in name else f"library/{name}"
    assert Repository.parse("docker.io", name).path == expected
    assert Repository.parse("quay.io", name).path == name


@given(st.one_of(grammar.tags, st.text("aZ0._-/: \né", max_size=8), st.integers(126, 130).map("t".__mul__)))
def test_a_tag_is_accepted_exactly_when_the_grammar_has_it(text: str) -> None:
    """Row 37; S."""
    try:
        assert Tag.parse(text) == text
    except TagInvalid:
        assert not grammar.is_tag(text)
    else:
        assert grammar.is_tag(text)


@given(grammar.near_digests)
def test_a_digest_is_accepted_exactly_when_it_can_be_verified(text: str) -> None:
    """Row 37; S P: a file path is built from what is accepted here."""
    try:
        digest = Digest.parse(text)
    except DigestInvalid:
        assert not grammar.is_digest(text)
    else:
        assert grammar.is_digest(text)
        assert f"{digest.algorithm}:{digest.hex}" == text
        assert set(digest.hex) <= set("0123456789abcdef")


@given(st.binary(max_size=200), st.sampled_from(["sha256", "sha512"]))
def test_a_digest_of_bytes_is_that_of_hashlib_and_matches_those_bytes_only(body: bytes, algorithm: str) -> None:
    digest = Digest.of(body, algorithm)
    assert digest == f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"
    assert Digest.parse(digest) == digest
    hasher = digest.hasher()
    hasher.update(body)
    assert digest.matches(hasher)
    hasher.update(b"x")
    assert not digest.matches(hasher)


@given(st.one_of(grammar.tags, grammar.near_digests, st.text(max_size=140)))
def test_a_reference_is_a_tag_a_digest_or_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except (TagInvalid, DigestInvalid):
        assert not grammar.is_tag(text)
        assert not grammar.is_digest(text)
    else:
        assert isinstance(reference, Digest) == grammar.is_digest(text)
        assert isinstance(reference, Tag) == grammar.is_tag(text)


@given(grammar.names)
def test_the_first_part_of_a_name_is_a_host_if_it_has_a_dot_or_a_colon_or_is_localhost(name: str) -> None:
    first = name.partition("/")[0]
    assert looks_like_host(first) == ("." in first or first == "localhost")
    assert looks_like_host(f"{first}:5000")


@pytest.mark.parametrize("text", ["a" * 100_000, "a-" * 50_000, "a/" * 50_000, "a__" * 30_000 + "!", "sha256:" * 9000])
def test_a_hostile_name_is_refused_in_no_time_and_not_repeated_at_length(text: str) -> None:
    """Row 37; H: both patterns match in linear time."""
    began = time.process_time()
    for parse in (lambda: Repository.parse("docker.io", text), lambda: parse_reference(text)):
        with pytest.raises(MillpondError) as refused:
            parse()
        assert len(str(refused.value)) < 500
    assert time.process_time() - began < 1
