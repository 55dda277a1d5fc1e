"""What only a real registry shows of the client beyond the source protocol."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, ManifestUnknown
from proxy.oci.names import Tag
from tests.support import images
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.tokens import SERVICE, TokenServer
from tests.upstream.conftest import Connect

pytestmark = pytest.mark.anyio


async def test_ping_passes_each_kind_with_what_it_wants(
    plain_registry: Registry, token_registry: Registry, password_registry: Registry, connect: Connect
) -> None:
    await connect(plain_registry.url).ping()
    for registry in (token_registry, password_registry):
        assert registry.authority
        await connect(registry.url, ca_file=registry.authority.ca_file, username=USER, password=PASSWORD).ping()
        with pytest.raises(Denied, match="credentials are configured: check"):
            await connect(registry.url, ca_file=registry.authority.ca_file, username=USER, password="wrong").ping()


async def test_a_registry_with_passwords_says_what_to_configure(password_registry: Registry, connect: Connect) -> None:
    assert password_registry.authority
    with pytest.raises(Denied, match=r"upstreams\.example\.test\.password_file"):
        await connect(password_registry.url, ca_file=password_registry.authority.ca_file).ping()


async def test_what_is_private_is_denied_without_credentials_and_costs_one_token(
    token_registry: Registry, token_server: TokenServer, connect: Connect, images_directory: Path
) -> None:
    image = images.simple_image(images_directory, seed=7)
    token_registry.push(image, "private/secret", "x")
    token_registry.push(image, "library/open", "x")
    assert token_registry.authority
    registry = connect(token_registry.url, ca_file=token_registry.authority.ca_file)
    with pytest.raises(Denied, match="no credentials are configured"):
        await registry.manifest("private/secret", Tag("x"))
    token_server.requests.clear()
    await registry.manifest("library/open", Tag("x"))
    await registry.manifest("library/open", Digest.parse(image.digest))
    (asked,) = token_server.requests
    assert asked.scopes == ("repository:library/open:pull",)
    assert (asked.service, asked.user) == (SERVICE, None)


async def test_tags_are_paged_and_referrers_unknown_to_distribution_2(
    plain_registry: Registry, connect: Connect, images_directory: Path
) -> None:
    image = images.simple_image(images_directory, seed=8)
    plain_registry.push(image, "library/tagged", "a", "b", "c")
    registry = connect(plain_registry.url)
    assert sorted((await registry.tags("library/tagged")).tags) == ["a", "b", "c"]
    first = await registry.tags("library/tagged", 2)
    assert (first.tags, first.more) == (("a", "b"), True)
    rest = await registry.tags("library/tagged", 2, "b")
    assert (rest.tags, rest.more) == (("c",), False)
    with pytest.raises(ManifestUnknown):
        await registry.referrers("library/tagged", Digest.parse(image.digest))
