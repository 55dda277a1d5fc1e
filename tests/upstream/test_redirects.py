"""Redirects, followed by hand (faults rows 13 and 14)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, UpstreamInvalid
from proxy.oci.names import Tag
from tests.support.certificates import Authority
from tests.support.faults import Answer, Fault, Request, redirect, refuse
from tests.support.images import chart
from tests.support.scripted import ScriptedUpstream
from tests.upstream.conftest import REPOSITORY, Connect, token, wants_token

pytestmark = pytest.mark.anyio

CONTENT = b"layer" * 1000
DIGEST = Digest.of(CONTENT)


async def read(registry: object, start: int = 0) -> tuple[int | None, int, bytes]:
    async with registry.blob(REPOSITORY, DIGEST, start) as stream:  # type: ignore[attr-defined]
        return stream.size, stream.start, b"".join([chunk async for chunk in stream.chunks])


def presigned(url: str) -> Callable[[int], Fault]:
    return lambda number: redirect(f"{url}/cdn/{DIGEST.hex}?signature={number}%2Fa")


async def test_credentials_never_cross_origins(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, connect: Connect
) -> None:
    elsewhere.serve(f"/cdn/{DIGEST.hex}", Answer(200, CONTENT))
    upstream.serve("/token", token("t"))
    upstream.serve(
        f"/v2/{REPOSITORY}/blobs/{DIGEST}",
        Answer(307, b"", {"Location": f"{elsewhere.url}/cdn/{DIGEST.hex}?signature=a%2Fb"}, ranged=False),
    )
    upstream.script("/v2/", then=wants_token(f"{upstream.url}/token", lambda: "t"))
    registry = connect(upstream.url, username="robot", password="secret")
    assert await read(registry) == (len(CONTENT), 0, CONTENT)
    assert upstream.seen("/v2/")[-1].headers["authorization"] == "Bearer t"
    (request,) = elsewhere.seen()
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers


async def test_a_redirect_back_to_the_own_origin_is_not_given_credentials_again(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, connect: Connect
) -> None:
    upstream.serve("/token", token("t"))
    upstream.serve("/v2/private", Answer(200, CONTENT))
    upstream.serve(f"/v2/{REPOSITORY}/blobs/{DIGEST}", Answer(307, b"", {"Location": f"{elsewhere.url}/there"}))
    elsewhere.serve("/there", Answer(307, b"", {"Location": f"{upstream.url}/v2/private"}))
    upstream.script("/v2/", then=wants_token(f"{upstream.url}/token", lambda: "t"))
    with pytest.raises(Denied):
        await read(connect(upstream.url))
    assert "authorization" not in upstream.seen("/v2/private")[-1].headers


async def test_a_redirect_within_the_own_origin_keeps_them(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.add_blob("moved", CONTENT)
    upstream.serve("/token", token("t"))
    upstream.serve(f"/v2/{REPOSITORY}/blobs/{DIGEST}", Answer(301, b"", {"Location": f"/v2/moved/blobs/{DIGEST}"}))
    upstream.script("/v2/", then=wants_token(f"{upstream.url}/token", lambda: "t"))
    assert (await read(connect(upstream.url)))[2] == CONTENT


async def test_manifests_are_redirected_too(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, connect: Connect
) -> None:
    digest = elsewhere.add(chart(), REPOSITORY, "latest")
    upstream.serve(
        f"/v2/{REPOSITORY}/manifests/latest",
        Answer(307, b"", {"Location": f"{elsewhere.url}/v2/{REPOSITORY}/manifests/latest"}),
    )
    registry = connect(upstream.url)
    assert await registry.resolve(REPOSITORY, Tag("latest")) == digest
    assert (await registry.manifest(REPOSITORY, Tag("latest"))).digest == digest


@pytest.mark.parametrize("hops", [5, 6])
async def test_five_hops_are_followed_and_a_sixth_is_not(
    upstream: ScriptedUpstream, connect: Connect, hops: int
) -> None:
    path = f"/v2/{REPOSITORY}/blobs/{DIGEST}"
    for hop in range(hops):
        upstream.serve(path, Answer(302, b"", {"Location": f"/hop/{hop}"}, ranged=False))
        path = f"/hop/{hop}"
    upstream.serve(path, Answer(200, CONTENT))
    if hops == 5:
        assert (await read(connect(upstream.url)))[2] == CONTENT
    else:
        with pytest.raises(UpstreamInvalid, match="more than 5"):
            await read(connect(upstream.url))
        assert len(upstream.seen()) == 6


async def test_a_loop_ends_at_once(upstream: ScriptedUpstream, connect: Connect) -> None:
    path = f"/v2/{REPOSITORY}/blobs/{DIGEST}"
    upstream.serve(path, Answer(307, b"", {"Location": "/there"}, ranged=False))
    upstream.serve("/there", Answer(307, b"", {"Location": path}, ranged=False))
    with pytest.raises(UpstreamInvalid, match="loop"):
        await read(connect(upstream.url))
    assert len(upstream.seen()) == 2


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/x",
        "https://169.254.169.254/x",
        "https://0.0.0.0:{port}/x",
        "https://user:pw@127.0.0.1:{port}/x",
        "https://2130706433:{port}/x",
        "gopher://127.0.0.1:{port}/x",
    ],
)
async def test_a_redirect_to_where_it_may_not_lead_makes_no_connection(
    authority: Authority, elsewhere: ScriptedUpstream, connect: Connect, location: str
) -> None:
    with ScriptedUpstream(authority) as upstream:
        upstream.script("/v2/", then=redirect(location.format(port=elsewhere.port)))
        with pytest.raises(UpstreamInvalid, match="no connection was made"):
            await read(connect(upstream.url, ca_file=authority.ca_file))
        assert len(upstream.seen()) == 1
    assert elsewhere.connections == 0


async def test_a_name_that_dns_leads_inside_makes_no_connection(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, connect: Connect
) -> None:
    registry = connect(upstream.url)
    upstream.script("/v2/", then=redirect(f"http://localhost:{elsewhere.port}/x"))
    # As if the upstream were on the internet: from there, a name that resolves to loopback is an attack.
    registry._guard._own_reach = None
    with pytest.raises(UpstreamInvalid, match="leads to localhost, a loopback address"):
        await read(registry)
    assert elsewhere.connections == 0


async def test_a_redirect_without_a_location_is_refused(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.script("/v2/", then=refuse(307))
    with pytest.raises(UpstreamInvalid, match="without saying where"):
        await read(connect(upstream.url))


@pytest.mark.parametrize("status", [401, 403])
async def test_a_presigned_url_that_has_expired_is_made_anew_once(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, connect: Connect, status: int
) -> None:
    to = presigned(elsewhere.url)
    elsewhere.serve(f"/cdn/{DIGEST.hex}", Answer(200, CONTENT))
    elsewhere.script("/cdn/", refuse(status, "Request has expired"))
    upstream.script("/v2/", to(1), to(2), to(3))
    registry = connect(upstream.url)
    assert await read(registry, 100) == (len(CONTENT), 100, CONTENT[100:])
    assert [request.query["signature"] for request in elsewhere.seen()] == ["1/a", "2/a"]
    await read(registry)
    assert [request.query["signature"] for request in elsewhere.seen()] == ["1/a", "2/a", "3/a"], "none is kept"
    elsewhere.script("/cdn/", then=refuse(status, "Request has expired"))
    upstream.script("/v2/", then=to(4))
    with pytest.raises(Denied) as caught:
        await read(registry)
    assert "signature" not in str(caught.value)


async def test_the_range_goes_along_to_where_the_redirect_leads(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, connect: Connect
) -> None:
    seen: list[Request] = []
    elsewhere.serve(f"/cdn/{DIGEST.hex}", Answer(200, CONTENT))
    upstream.script("/v2/", then=presigned(elsewhere.url)(1))
    assert await read(connect(upstream.url), 4000) == (len(CONTENT), 4000, CONTENT[4000:])
    seen = elsewhere.seen()
    assert seen[0].headers["range"] == "bytes=4000-"
