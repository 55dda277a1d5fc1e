"""The bearer flow: one fetch for many, early refresh, credentials that go nowhere else (faults rows 12 and 14)."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from proxy.oci.digest import Digest
from proxy.oci.errors import Denied, MillpondError, UpstreamInvalid, UpstreamUnreachable
from proxy.oci.names import Tag
from proxy.upstream.auth import FRESH
from tests.support.faults import Answer, Gate, Request, change, refuse
from tests.support.images import OCI_MANIFEST, chart
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until_async
from tests.upstream.conftest import REPOSITORY, Clock, Connect, Notes, token, wants_token

pytestmark = pytest.mark.anyio

TAG = Tag("latest")
OWN_SCOPE = f"repository:{REPOSITORY}:pull"


@pytest.fixture
def issued() -> list[str]:
    """The tokens that have been issued; the last one is valid."""
    return ["none yet"]


@pytest.fixture
def guarded(upstream: ScriptedUpstream, issued: list[str]) -> ScriptedUpstream:
    """A registry with one image behind tokens of its own, numbered from 1, valid for 100 s."""

    def issue(_: Request, __: Answer) -> Answer:
        issued.append(f"token-{len(issued)}")
        return token(issued[-1], expires_in=100)

    upstream.add(chart(), REPOSITORY, TAG)
    upstream.script("/token", then=issue)
    for method in ("GET", "HEAD"):
        upstream.script("/v2/", then=wants_token(f"{upstream.url}/token?kept=1", lambda: issued[-1]), method=method)
    return upstream


async def test_a_token_is_fetched_with_our_own_scope_and_the_realms_query(
    guarded: ScriptedUpstream, connect: Connect
) -> None:
    assert await connect(guarded.url).resolve(REPOSITORY, TAG)
    (request,) = guarded.seen("/token")
    assert request.query == {"kept": "1", "service": "registry of the tests", "scope": OWN_SCOPE}
    assert "authorization" not in request.headers


async def test_fifty_callers_at_once_cause_one_token_request(guarded: ScriptedUpstream, connect: Connect) -> None:
    gate = Gate()
    guarded.script("/token", change(gates={0: gate}, status=200), then=lambda _, __: token("token-x"))
    guarded.serve("/token", token("token-x"))
    guarded.script("/v2/", then=wants_token(f"{guarded.url}/token", lambda: "token-x"))
    registry = connect(guarded.url)
    callers = [asyncio.create_task(registry.manifest(REPOSITORY, TAG)) for _ in range(50)]
    await wait_until_async(lambda: len(guarded.seen("/v2/")) >= 50, "every caller has met the challenge")
    gate.open()
    assert len({manifest.digest for manifest in await asyncio.gather(*callers)}) == 1
    assert len(guarded.seen("/token")) == 1


async def test_a_caller_that_leaves_takes_nobodys_token_along(guarded: ScriptedUpstream, connect: Connect) -> None:
    gate = Gate()
    guarded.serve("/token", token("token-x"))
    guarded.script("/token", change(gates={0: gate}))
    guarded.script("/v2/", then=wants_token(f"{guarded.url}/token", lambda: "token-x"))
    registry = connect(guarded.url)
    leaving = asyncio.create_task(registry.manifest(REPOSITORY, TAG))
    await wait_until_async(gate.reached.is_set, "the token is being fetched")
    staying = asyncio.create_task(registry.manifest(REPOSITORY, TAG))
    for _ in range(10):
        await asyncio.sleep(0)  # there is nothing to see from outside: it waits for the same token
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    gate.open()
    await staying
    assert len(guarded.seen("/token")) == 1


async def test_closing_tells_whoever_waits_for_a_token(guarded: ScriptedUpstream, connect: Connect) -> None:
    gate = Gate()
    guarded.serve("/token", token("token-x"))
    guarded.script("/token", change(gates={0: gate}))
    registry = connect(guarded.url)
    caller = asyncio.create_task(registry.manifest(REPOSITORY, TAG))
    await wait_until_async(gate.reached.is_set, "the token is being fetched")
    await registry.aclose()
    with pytest.raises(UpstreamUnreachable, match="shutting down"):
        await caller
    gate.open()


async def test_a_failed_fetch_is_told_to_all_and_poisons_nothing(guarded: ScriptedUpstream, connect: Connect) -> None:
    guarded.serve("/token", token("token-x"))
    guarded.script("/token", refuse(403, "not today"))
    guarded.script("/v2/", then=wants_token(f"{guarded.url}/token", lambda: "token-x"))
    registry = connect(guarded.url)
    with pytest.raises(Denied, match="not today"):
        await registry.manifest(REPOSITORY, TAG)
    await registry.manifest(REPOSITORY, TAG)


async def test_the_challenge_is_remembered_so_that_a_new_repository_costs_no_401(
    guarded: ScriptedUpstream, connect: Connect
) -> None:
    guarded.add(chart(), "library/other", TAG)
    registry = connect(guarded.url)
    await registry.manifest(REPOSITORY, TAG)
    guarded.requests.clear()
    await registry.manifest("library/other", TAG)
    assert [request.path for request in guarded.seen()] == ["/token", "/v2/library/other/manifests/latest"]
    assert guarded.seen("/token")[0].query["scope"] == "repository:library/other:pull"


async def test_a_token_is_refreshed_at_four_fifths_of_its_life(
    guarded: ScriptedUpstream, connect: Connect, clock: Clock, issued: list[str]
) -> None:
    registry = connect(guarded.url, clock=clock)
    for moment, count in ((0.0, 1), (79.0, 1), (2.0, 2), (79.0, 2)):
        clock.now += moment
        await registry.manifest(REPOSITORY, TAG)
        assert len(guarded.seen("/token")) == count


async def test_an_old_token_serves_to_its_end_while_its_server_fails(
    guarded: ScriptedUpstream, connect: Connect, clock: Clock
) -> None:
    registry = connect(guarded.url, clock=clock)
    await registry.manifest(REPOSITORY, TAG)
    guarded.script("/token", then=refuse(429, retry_after="1"))
    clock.now += 90
    await registry.manifest(REPOSITORY, TAG)
    clock.now += 11
    with pytest.raises(MillpondError, match="token"):
        await registry.manifest(REPOSITORY, TAG)


@pytest.mark.parametrize("expires_in", [None, 0, -5, "soon", True, 1e999, 1])
async def test_an_odd_lifetime_neither_storms_the_token_server_nor_lasts_for_ever(
    guarded: ScriptedUpstream, connect: Connect, clock: Clock, expires_in: object
) -> None:
    body = token("token-x") if expires_in is None else token("token-x", expires_in=expires_in)
    guarded.script("/token", then=lambda _, __: body)
    guarded.script("/v2/", then=wants_token(f"{guarded.url}/token", lambda: "token-x"))
    registry = connect(guarded.url, clock=clock)
    for _ in range(3):
        await registry.manifest(REPOSITORY, TAG)
        clock.now += 2
    assert len(guarded.seen("/token")) == 1
    clock.now += 13 * 3600
    await registry.manifest(REPOSITORY, TAG)
    assert len(guarded.seen("/token")) == 2


async def test_a_401_in_mid_use_is_answered_from_a_fresh_unauthenticated_challenge(
    guarded: ScriptedUpstream, connect: Connect, issued: list[str]
) -> None:
    registry = connect(guarded.url)
    await registry.manifest(REPOSITORY, TAG)
    issued.append("upstream has revoked the last one")
    guarded.requests.clear()
    await registry.manifest(REPOSITORY, TAG)
    sent = [request.headers.get("authorization") for request in guarded.seen("/v2/")]
    assert sent == ["Bearer token-1", None, f"Bearer {issued[-1]}"]
    assert len(guarded.seen("/token")) == 1


async def test_a_registry_that_never_accepts_its_own_tokens_is_asked_a_bounded_number_of_times(
    guarded: ScriptedUpstream, connect: Connect
) -> None:
    guarded.script("/v2/", then=wants_token(f"{guarded.url}/token", lambda: "another"))
    with pytest.raises(Denied, match="no credentials are configured"):
        await connect(guarded.url).manifest(REPOSITORY, TAG)
    assert len(guarded.seen("/v2/")) == 2


async def test_the_challenges_scopes_are_split_and_repeated_after_our_own(
    upstream: ScriptedUpstream, connect: Connect
) -> None:
    extra = f',scope="{OWN_SCOPE} repository:a/b:pull,push"'
    upstream.add(chart(), REPOSITORY, TAG)
    upstream.serve("/token", token("t"))
    upstream.script("/v2/", then=wants_token(f"{upstream.url}/token", lambda: "t", extra))
    await connect(upstream.url).manifest(REPOSITORY, TAG)
    queries = [request.query["scope"] for request in upstream.seen("/token")]
    assert queries == ["repository:a/b:pull,push"]  # the double keeps the last of a repeated parameter


async def test_an_access_token_is_as_good_as_a_token(upstream: ScriptedUpstream, connect: Connect) -> None:
    upstream.add(chart(), REPOSITORY, TAG)
    upstream.serve("/token", Answer(200, json.dumps({"access_token": "t"}).encode()))
    upstream.script("/v2/", then=wants_token(f"{upstream.url}/token", lambda: "t"))
    assert (await connect(upstream.url).manifest(REPOSITORY, TAG)).media_type == OCI_MANIFEST


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"token": 5}',
        b'{"token": ""}',
        b'{"token": "a\\r\\nX: y"}',
        b"[" * 100_000,
        b"x" * 2_000_000,
    ],
    ids=range(8),
)
async def test_what_is_not_a_token_is_refused(upstream: ScriptedUpstream, connect: Connect, body: bytes) -> None:
    upstream.serve("/token", Answer(200, body, framing="chunked"))
    upstream.script("/v2/", then=wants_token(f"{upstream.url}/token", lambda: "t"))
    with pytest.raises(UpstreamInvalid):
        await connect(upstream.url).manifest(REPOSITORY, TAG)


async def test_credentials_go_to_the_realm_as_basic_and_the_token_alone_to_the_registry(
    guarded: ScriptedUpstream, connect: Connect
) -> None:
    registry = connect(guarded.url, username="robot", password="söcret: pass")
    await registry.manifest(REPOSITORY, TAG)
    basic = "Basic " + base64.b64encode("robot:söcret: pass".encode()).decode()
    assert [request.headers.get("authorization") for request in guarded.seen("/token")] == [basic]
    assert [request.headers.get("authorization") for request in guarded.seen("/v2/")] == [None, "Bearer token-1"]


@pytest.mark.parametrize("username", [None, "robot"], ids=["without credentials", "with credentials"])
@pytest.mark.parametrize(
    "realm",
    [
        "http://localhost:{port}/token",
        "http://169.254.169.254/latest/meta-data",
        "http://user@127.0.0.1:{port}/token",
        "http://127.0.0.1:{port}@localhost:{port}/token",
        "ftp://127.0.0.1:{port}/token",
    ],
)
async def test_a_realm_elsewhere_is_refused_without_a_connection(
    upstream: ScriptedUpstream, elsewhere: ScriptedUpstream, connect: Connect, realm: str, username: str | None
) -> None:
    upstream.script("/v2/", then=wants_token(realm.format(port=elsewhere.port), lambda: "t"))
    password = "secret" if username else None
    with pytest.raises(UpstreamInvalid, match="no connection was made"):
        await connect(upstream.url, username=username, password=password).manifest(REPOSITORY, TAG)
    assert elsewhere.connections == 0
    assert len(upstream.seen()) == 1


async def test_a_token_server_that_redirects_is_refused(
    guarded: ScriptedUpstream, elsewhere: ScriptedUpstream, connect: Connect
) -> None:
    guarded.script("/token", then=change(status=307, headers={"Location": f"{elsewhere.url}/token"}))
    with pytest.raises(UpstreamInvalid, match="token server"):
        await connect(guarded.url, username="robot", password="secret").manifest(REPOSITORY, TAG)
    assert elsewhere.connections == 0


async def test_basic_is_answered_when_credentials_are_configured_and_only_then(
    upstream: ScriptedUpstream, connect: Connect
) -> None:
    def wants_basic(request: Request, answer: Answer) -> Answer:
        if request.headers.get("authorization") == "Basic cm9ib3Q6c2VjcmV0":
            return answer
        return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="private"'}, ranged=False)

    upstream.add(chart(), REPOSITORY, TAG)
    upstream.script("/v2/", then=wants_basic)
    registry = connect(upstream.url, username="robot", password="secret")
    await registry.manifest(REPOSITORY, TAG)
    await registry.manifest(REPOSITORY, TAG)
    assert len(upstream.seen()) == 3, "the challenge is remembered"
    with pytest.raises(Denied, match=r"upstreams\.example\.test\.username"):
        await connect(upstream.url).manifest(REPOSITORY, TAG)
    with pytest.raises(Denied, match="credentials are configured: check"):
        await connect(upstream.url, username="robot", password="wrong").manifest(REPOSITORY, TAG)


async def test_a_registry_that_answers_401_to_every_head_of_a_blob_still_says_its_size(
    guarded: ScriptedUpstream, connect: Connect
) -> None:
    """As public.ecr.aws does."""
    digest = Digest.parse(guarded.add_blob(REPOSITORY, b"layer"))
    guarded.script("/v2/", then=wants_token(f"{guarded.url}/token", lambda: "no such token"), method="HEAD")
    registry = connect(guarded.url)
    assert await registry.blob_size(REPOSITORY, digest) == 5
    guarded.requests.clear()
    assert await registry.blob_size(REPOSITORY, digest) == 5
    assert [request.method for request in guarded.requests] == ["GET"]


@pytest.mark.parametrize(("challenge", "error"), [("", Denied), ("Negotiate", UpstreamInvalid), ('"', UpstreamInvalid)])
async def test_a_401_without_a_challenge_that_can_be_answered_is_the_end(
    upstream: ScriptedUpstream, connect: Connect, challenge: str, error: type[Exception]
) -> None:
    headers = {"www-authenticate": challenge} if challenge else {}
    upstream.script("/v2/", then=refuse(401, "go away", **headers))
    with pytest.raises(error):
        await connect(upstream.url).manifest(REPOSITORY, TAG)
    assert len(upstream.seen()) == 1


async def test_ping_goes_as_far_as_the_token_and_says_what_is_wrong(
    guarded: ScriptedUpstream, connect: Connect
) -> None:
    guarded.serve("/v2/", Answer(200, b"{}"))
    notes = Notes()
    await connect(guarded.url, observer=notes).ping()
    assert notes.tokens == ["fetched"]
    assert notes.requests == [("ping", 401), ("token", 200), ("ping", 200)]
    guarded.script("/token", then=refuse(401, "wrong password"))
    with pytest.raises(Denied, match=r"wrong password.*password_file"):
        await connect(guarded.url, username="robot", password="x", observer=notes).ping()
    await connect(guarded.url).ping()  # no token for nobody and no repository: nothing follows from it


async def test_no_secret_is_in_a_repr_or_a_message(guarded: ScriptedUpstream, connect: Connect) -> None:
    guarded.script("/token", then=refuse(401))
    registry = connect(guarded.url, username="robot", password="hunter2")
    with pytest.raises(Denied) as caught:
        await registry.manifest(REPOSITORY, TAG)
    assert "hunter2" not in f"{caught.value} {registry._endpoint!r}"
    assert "kept=1" not in str(caught.value), "the realm's query may be a secret"


class Ecr:
    """ECR's answers, and a login that gives the same password until that is to be forgotten: then the next one."""

    def __init__(self) -> None:
        self.logins = self.valid = 1

    async def login(self) -> tuple[str, str]:
        return "AWS", f"password-{self.logins}"

    def forget(self) -> None:
        self.logins += 1

    @property
    def header(self) -> str:
        """What is let in."""
        return f"Basic {base64.b64encode(f'AWS:password-{self.valid}'.encode()).decode()}"

    def answer(self, request: Request, answer: Answer) -> Answer:
        header = request.headers.get("authorization")
        if header is None:
            return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="ecr",service="ecr.amazonaws.com"'}, ranged=False)
        if header == self.header and "forbidden" not in request.path:
            return answer
        return refuse(403, "your token has expired, or this is not for you")(request, answer)


@pytest.fixture
def ecr(upstream: ScriptedUpstream) -> Ecr:
    """What the upstream is from now on; it has the image."""
    made = Ecr()
    upstream.add(chart(), REPOSITORY, TAG)
    for method in ("GET", "HEAD"):
        upstream.script("/v2/", then=made.answer, method=method)
    return made


async def test_a_403_to_a_password_that_is_not_fresh_causes_one_login_for_all_who_meet_it(
    upstream: ScriptedUpstream, ecr: Ecr, connect: Connect, clock: Clock
) -> None:
    registry = connect(upstream.url, login=ecr.login, forget=ecr.forget, clock=clock)
    await registry.manifest(REPOSITORY, TAG)
    clock.now += FRESH
    ecr.valid = 2
    manifests = await asyncio.gather(*(registry.manifest(REPOSITORY, TAG) for _ in range(10)))
    assert {manifest.digest for manifest in manifests} == {chart().digest}
    assert ecr.logins == 2
    clock.now += FRESH
    ecr.valid = 3
    assert await registry.resolve(REPOSITORY, TAG) == chart().digest, "a HEAD has no words about it"
    assert ecr.logins == 3


async def test_a_forbidden_repository_costs_no_more_than_one_login_a_minute(
    upstream: ScriptedUpstream, ecr: Ecr, connect: Connect, clock: Clock
) -> None:
    registry = connect(upstream.url, login=ecr.login, forget=ecr.forget, clock=clock)
    for minute in (0, 1, 2):
        ecr.valid = 1 + minute  # as ever, what a login gives is what is valid
        for pull in range(5):
            upstream.requests.clear()
            with pytest.raises(Denied, match="not for you"):
                await registry.manifest("forbidden", TAG)
            assert ecr.logins == 1 + minute
            assert pull == 0 or len(upstream.requests) == 1
        assert (await registry.manifest(REPOSITORY, TAG)).digest == chart().digest
        clock.now += FRESH


async def test_a_400_to_a_token_that_is_not_fresh_causes_another_token(
    guarded: ScriptedUpstream, connect: Connect, clock: Clock, issued: list[str]
) -> None:
    """As ECR Public does; without an Authorization header it answers 401."""
    wanted = wants_token(f"{guarded.url}/token", lambda: issued[-1])

    def public(request: Request, answer: Answer) -> Answer:
        given = wanted(request, answer)
        return refuse(400)(request, answer) if given.status == 401 and "authorization" in request.headers else given

    guarded.script("/v2/", then=public)
    login = Ecr()
    registry = connect(guarded.url, login=login.login, forget=login.forget, clock=clock)
    await registry.manifest(REPOSITORY, TAG)
    issued.append("the one before has expired")
    with pytest.raises(UpstreamInvalid, match="400"):
        await registry.manifest(REPOSITORY, TAG)
    clock.now += FRESH
    await registry.manifest(REPOSITORY, TAG)
    assert [request.headers["authorization"] for request in guarded.seen("/token")] == [login.header] * 2


@pytest.mark.parametrize("status", [400, 403])
async def test_without_a_login_it_is_what_it_is(
    guarded: ScriptedUpstream, connect: Connect, clock: Clock, status: int
) -> None:
    registry = connect(guarded.url, username="robot", password="secret", clock=clock)
    await registry.manifest(REPOSITORY, TAG)
    clock.now += FRESH
    guarded.requests.clear()
    guarded.script("/v2/", then=refuse(status))
    with pytest.raises(MillpondError, match=str(status)):
        await registry.manifest(REPOSITORY, TAG)
    assert len(guarded.requests) == 1


async def test_whoever_may_log_in_and_not_pull_is_told_what_to_check(
    upstream: ScriptedUpstream, ecr: Ecr, connect: Connect
) -> None:
    registry = connect(upstream.url, login=ecr.login, forget=ecr.forget)
    with pytest.raises(Denied) as caught:
        await registry.manifest("forbidden", TAG)
    assert "upstreams.example.test.role_arn" in str(caught.value)
    assert "ecr:BatchGetImage" in str(caught.value)
    assert "password" not in str(caught.value), "there is none to configure, nor may the one that was made be shown"
