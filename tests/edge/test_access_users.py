"""Users with passwords and tokens, before the running program."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import StartMillpond
from tests.edge.access import TOKEN, basic, bearer, htpasswd, message
from tests.edge.raw import ask
from tests.support import images
from tests.support.faults import refuse
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import get, pull
from tests.support.scripted import ScriptedUpstream

PASSWORD = "correct: horse battery ståple"
LONG = "x" * 72
IMAGE = "/v2/library/x/manifests/1"


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def image(upstream: ScriptedUpstream, images_directory: Path) -> Manifest:
    made = images.simple_image(images_directory, seed=30)
    upstream.add(made, "library/x", "1")
    return made


@pytest.fixture(scope="module")
def guarded(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Millpond]:
    """Everybody needs credentials: alice and long have passwords, node has a token."""
    directory = tmp_path_factory.mktemp("guarded")
    tokens = directory / "tokens"
    tokens.write_text(f"# nodes\nnode:{TOKEN}\n")
    users = htpasswd(directory / "htpasswd", {"alice": PASSWORD, "long": LONG + "whatever", "ålesund": "p"})
    access = {"htpasswd_file": users, "tokens_file": str(tokens)}
    millpond = Millpond({"upstreams": {"docker.io": upstream.upstream()}, "access": access}, directory).start()
    yield millpond
    millpond.stop()
    assert not millpond.complaints()


@pytest.mark.parametrize(
    "path",
    ["/v2/", "/v2/_catalog", IMAGE, "/v2/library/x/tags/list", "/v2/evil.test/x/manifests/1", "/nothing", "/v2/X/%2f"],
)
def test_without_credentials_nothing_is_told_but_that_they_are_wanted(
    guarded: Millpond, upstream: ScriptedUpstream, path: str
) -> None:
    """S: not even which upstreams there are."""
    before = upstream.connections
    reply = get(guarded.url + path)
    assert (reply.status, reply.error_code) == (401, "UNAUTHORIZED")
    assert reply.headers["www-authenticate"].startswith('Basic realm="Millpond"')
    assert "docker.io" not in reply.text
    assert upstream.connections == before


@pytest.mark.parametrize(
    ("headers", "user"),
    [
        (basic("alice", PASSWORD), "alice"),
        (basic("long", LONG), "long"),
        (basic("long", LONG + "another end"), "long"),
        (basic("ålesund", "p"), "ålesund"),
        (bearer(TOKEN), "node"),
        (basic("node", TOKEN), "node"),
        ({"Authorization": f"bEARER {TOKEN}"}, "node"),
    ],
)
def test_right_credentials_let_in_and_the_log_has_the_user(
    guarded: Millpond, image: Manifest, headers: dict[str, str], user: str
) -> None:
    for _ in range(2):  # found right the first time, remembered the second
        name = secrets.token_hex(8)
        reply = get(guarded.url + IMAGE, headers | {"X-Request-Id": name})
        assert (reply.status, reply.digest) == (200, image.digest)
        guarded.settle_log(headers)
        assert [line["user"] for line in guarded.log_lines(id=name)] == [user]


@pytest.mark.parametrize(
    "value",
    [
        basic("alice", "wrong")["Authorization"],
        basic("alice", "")["Authorization"],
        basic("alice", PASSWORD + " ")["Authorization"],
        basic("node", PASSWORD)["Authorization"],
        basic("alice", TOKEN)["Authorization"],  # a token is its own user's only
        basic("", TOKEN)["Authorization"],
        f"Bearer {TOKEN[:-1]}",
        "Bearer",
        "Bearer " + PASSWORD.replace("å", "a"),
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"alice").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
        "Basic " + base64.b64encode(b"alice:a\0b").decode(),
        "Digest username=alice",
        "",
    ],
)
def test_wrong_credentials_do_not_let_in(guarded: Millpond, value: str) -> None:
    reply = get(guarded.url + "/v2/", {"Authorization": value})
    assert (reply.status, reply.error_code) == (401, "UNAUTHORIZED")
    assert "www-authenticate" in reply.headers


def test_nothing_can_be_pushed_with_credentials_either(guarded: Millpond) -> None:
    headers = [f"{name}: {value}" for name, value in bearer(TOKEN).items()]
    assert ask(guarded, IMAGE, "PUT", *headers, "Content-Length: 10").status == 405


def test_credentials_of_clients_reach_no_upstream_and_no_log(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest, tmp_path: Path
) -> None:
    """S: neither as they are, nor encoded, of those that are right, wrong or unreadable; while upstream fails too."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"node:{TOKEN}\n")
    users = htpasswd(tmp_path / "htpasswd", {"alice": PASSWORD})
    millpond = start_millpond(
        {"docker.io": upstream.upstream(tag_ttl="0s")},
        access={"htpasswd_file": users, "tokens_file": str(tokens)},
        log={"format": "json", "level": "debug"},
    )
    upstream.requests.clear()
    planted = ["wrong-password-of-alice", "wrong-token-0123456789", "unreadable-secret"]
    right = [basic("alice", PASSWORD), bearer(TOKEN)]
    wrong = [basic("alice", planted[0]), bearer(planted[1]), {"Authorization": f"Negotiate {planted[2]}"}]
    answers = [get(millpond.url + path, headers) for headers in right + wrong for path in ("/v2/", IMAGE)]
    assert [reply.status for reply in answers] == [200] * 4 + [401] * 6
    blob = f"/v2/library/x/blobs/{image.blobs[0].digest}"
    assert get(millpond.url + blob, right[0]).status == 200
    for status in (500, 401, 404):
        upstream.script("/v2/library/y", then=refuse(status), method="")
        answers.append(get(f"{millpond.url}/v2/library/y/manifests/1", right[1]))
        assert answers[-1].status >= 400
    upstream.behave()
    assert upstream.seen("/v2/library/x", "")
    assert not [request for request in upstream.requests if "authorization" in request.headers]
    millpond.settle_log(right[0])
    told = millpond.log_text() + json.dumps(millpond.metrics()) + "".join(reply.text for reply in answers)
    hashed = (tmp_path / "htpasswd").read_text().split("alice:")[1].strip()
    for secret in (PASSWORD, TOKEN, hashed, *planted):
        assert secret not in told
    for headers in right + wrong:
        assert headers["Authorization"].partition(" ")[2] not in told
        assert json.dumps(headers["Authorization"].partition(" ")[2]) not in told


def test_whoever_guesses_is_told_to_wait_and_whoever_was_right_is_not(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest, tmp_path: Path
) -> None:
    """H: from the same address, as nodes behind one have it."""
    users = htpasswd(tmp_path / "htpasswd", {"alice": PASSWORD, "bob": PASSWORD})
    millpond = start_millpond({"docker.io": upstream.upstream()}, access={"htpasswd_file": users})
    assert get(millpond.url + IMAGE, basic("alice", PASSWORD)).status == 200
    # A node with an old password is no guesser: nothing is computed for it.
    old = [get(f"{millpond.url}/v2/", basic("alice", "old password")) for _ in range(30)]
    assert {reply.status for reply in old} == {401}
    guesses = [get(f"{millpond.url}/v2/", basic("alice", f"guess {number}")) for number in range(30)]
    statuses = [reply.status for reply in guesses]
    assert statuses[:5] == [401] * 5
    assert statuses.count(429) >= 5
    told = next(reply for reply in guesses if reply.status == 429)
    assert told.error_code == "TOOMANYREQUESTS"
    assert int(told.headers["retry-after"]) >= 1
    assert "too many wrong passwords have come from this address" in message(told)
    assert get(millpond.url + IMAGE, basic("alice", PASSWORD)).status == 200
    assert get(f"{millpond.url}/v2/", basic("alice", "old password")).status == 401
    # It guesses right at last, and does not learn it.
    with ThreadPoolExecutor(8) as pool:
        late = [pool.submit(get, f"{millpond.url}/v2/", basic("bob", f"more {n}")) for n in range(40)]
    assert 429 in {reply.result().status for reply in late}


def test_a_slow_password_is_computed_once_for_all_who_send_it_and_holds_up_nobody(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest, tmp_path: Path
) -> None:
    """H: each check takes about a second. One after the other, most of the hundred would be told to wait."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"node:{TOKEN}\n")
    users = htpasswd(tmp_path / "htpasswd", {"alice": PASSWORD}, cost=14)
    millpond = start_millpond(
        {"docker.io": upstream.upstream()}, access={"htpasswd_file": users, "tokens_file": str(tokens)}
    )
    with ThreadPoolExecutor(100) as pool:
        wrong, meanwhile = pool.submit(get, f"{millpond.url}/v2/", basic("alice", "wrong")), 0
        while not wrong.done():
            meanwhile += get(f"{millpond.url}/v2/", bearer(TOKEN)).status == 200
        assert wrong.result().status == 401
        # If the check stood in their way, there would be one before it, one behind it, and none between.
        assert meanwhile > 8
        slow = [pool.submit(get, millpond.url + IMAGE, basic("alice", PASSWORD)) for _ in range(100)]
        assert {done.result().status for done in slow} == {200}


def test_without_users_what_clients_send_is_of_no_interest(
    start_millpond: StartMillpond, upstream: ScriptedUpstream, image: Manifest
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()})
    upstream.requests.clear()
    replies = pull(f"{millpond.url}/v2/library/x", image, "1")
    assert {reply.status for reply in replies} == {200}
    assert get(millpond.url + IMAGE, basic("alice", "planted secret")).status == 200
    assert not [request for request in upstream.requests if "authorization" in request.headers]
    millpond.settle_log()
    assert not [line for line in millpond.log_lines(event="served") if "user" in line]
    assert "planted secret" not in millpond.log_text()
