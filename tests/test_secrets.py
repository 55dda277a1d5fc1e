"""S: what is secret leaves only towards whom it is for. Secrets are planted everywhere, everything is made to fail, and
then all that the program printed, wrote and answered is searched for them."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from proxy.oci.secret import Secret
from tests.conftest import StartMillpond
from tests.ecr.fleet import ARRIVAL, targets
from tests.support import images
from tests.support.command import millpond
from tests.support.ecr import EcrDouble
from tests.support.faults import Answer, Fault, Gate, Request, change, cut, html, redirect, refuse
from tests.support.millpond import Millpond
from tests.support.ports import free_port
from tests.support.pulls import Reply, get
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

PASSWORD: Final = "planted-password-ä-1f0c"  # not ASCII, as passwords of people are
FILE_PASSWORD: Final = "planted-password-of-a-file-77aa"
TOKEN: Final = "planted.token.of-the-realm.5c1d"
SIGNATURE: Final = "planted-signature-of-a-url-9e2b-" + "f" * 64
PROXY_PASSWORD: Final = "planted-password-of-the-proxy-03cd"
ADMIN_TOKEN: Final = "planted-token-of-the-operator-b4e8"
CLIENT_PASSWORD: Final = "planted-password-of-a-client-d00f"
CLIENT_TOKEN: Final = "planted-token-of-a-client-41ee"
COOKIE: Final = "planted-cookie-of-a-client-8a8a"

BASIC: Final = base64.b64encode(f"robot:{PASSWORD}".encode()).decode()
FILE_BASIC: Final = base64.b64encode(f"clerk:{FILE_PASSWORD}".encode()).decode()
CLIENT_BASIC: Final = base64.b64encode(f"visitor:{CLIENT_PASSWORD}".encode()).decode()
PLANTED: Final = (
    PASSWORD, FILE_PASSWORD, TOKEN, SIGNATURE, PROXY_PASSWORD, ADMIN_TOKEN, CLIENT_PASSWORD, CLIENT_TOKEN, COOKIE,
    BASIC, FILE_BASIC, CLIENT_BASIC,
)  # fmt: skip

CLIENT: Final = {"Authorization": f"Bearer {CLIENT_TOKEN}", "Cookie": f"session={COOKIE}"}
LARGE: Final = 3 * 1024 * 1024


def forms(secret: str) -> Iterator[bytes]:
    """A secret as it may stand in a file, an answer or a log."""
    raw = secret.encode()
    yield from {raw, base64.b64encode(raw).rstrip(b"="), quote(secret).encode(), json.dumps(secret)[1:-1].encode()}
    yield repr(secret)[1:-1].encode()
    yield secret.encode("unicode_escape")


@dataclass
class Loot:
    """Everything that came out of the program, by where."""

    found: dict[str, bytes] = field(default_factory=dict)

    def keep(self, where: str, what: bytes | str) -> None:
        self.found[f"{where} ({len(self.found)})"] = what.encode() if isinstance(what, str) else what

    def leaks(self, secrets: tuple[str, ...]) -> list[str]:
        return [
            f"{secret!r} in {where}"
            for secret in secrets
            for where, text in self.found.items()
            if any(form in text for form in forms(secret))
        ]


def echo(status: int) -> Fault:
    """An answer that repeats in words what the request was sent with, as the debug page of a gateway does."""

    def fault(request: Request, _: Answer) -> Answer:
        sent = request.headers.get("authorization", "nothing")
        plain = base64.b64decode(sent.partition(" ")[2]).decode() if sent.startswith("Basic") else ""
        query = "&".join(f"{key}={value}" for key, value in request.query.items())
        return refuse(status, f"you sent {sent} {plain} to {request.path}?{query}")(request, Answer())

    return fault


def presigned(host: str, name: str) -> str:
    return f"{host}/store/{name}?X-Amz-Expires=300&X-Amz-Signature={SIGNATURE}"


@dataclass
class Planted:
    """A Millpond between upstreams that want credentials and repeat them."""

    millpond: Millpond
    guarded: ScriptedUpstream
    basic: ScriptedUpstream
    loot: Loot
    stored: list[Request] = field(default_factory=list)
    """What was asked of where the signed URLs lead."""

    def ask(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return self.keep(get(self.millpond.url + path, {**CLIENT, **(headers or {})}), path)

    def keep(self, reply: Reply, where: str) -> Reply:
        self.loot.keep(f"the answer to {where}", repr(reply.headers).encode() + reply.body)
        return reply

    def guard(self, part: str = "/v2/", then: Fault | None = None) -> None:
        """Have what contains `part` answered so to whoever has the token; everything else as usual."""
        self.guarded.script(part, then=wanting_token(self.guarded, then or usual), method="")
        if part != "/v2/":
            self.guard()  # anew, since the first script that fits is the one that counts

    def clerk(self, part: str = "/v2/", then: Fault | None = None) -> None:
        """The same for whoever has the password of the file."""
        self.basic.script(part, then=wanting_basic(then or usual), method="")
        if part != "/v2/":
            self.clerk()

    def blob(self, *faults: Fault, at: str = "storage", size: int = 1000) -> Reply:
        """Pull a new blob whose upstream redirects to a signed URL, after what this does at either."""
        content = f"{len(self.loot.found)}".encode().ljust(size, b".")
        digest = self.guarded.add_blob("team/app", content)
        # A host of its own for each: one that has failed is left alone for a while.
        with ScriptedUpstream() as storage:
            storage.serve(f"/store/{digest}", Answer(200, content))
            storage.script(digest, *faults, then=faults[-1] if faults else None)
            self.guard(digest, redirect(presigned(storage.url, digest)) if at == "storage" else faults[-1])
            reply = self.ask(f"/v2/docker.io/team/app/blobs/{digest}")
        self.stored += storage.requests
        return reply


def wanting_token(upstream: ScriptedUpstream, then: Fault) -> Fault:
    def fault(request: Request, answer: Answer) -> Answer:
        if request.headers.get("authorization") == f"Bearer {TOKEN}":
            return then(request, answer)
        challenge = f'Bearer realm="{upstream.url}/token",service="registry of the tests"'
        return Answer(401, b"", {"WWW-Authenticate": challenge}, ranged=False)

    return fault


def wanting_basic(then: Fault) -> Fault:
    def fault(request: Request, answer: Answer) -> Answer:
        if request.headers.get("authorization") == f"Basic {FILE_BASIC}":
            return then(request, answer)
        return Answer(401, b"", {"WWW-Authenticate": 'Basic realm="tests"'}, ranged=False)

    return fault


def usual(_: Request, answer: Answer) -> Answer:
    return answer


@pytest.fixture
def cloud() -> Iterator[EcrDouble]:
    with EcrDouble() as made:
        yield made


@pytest.fixture
def planted(tmp_path: Path, start_millpond: StartMillpond) -> Iterator[Planted]:
    with ScriptedUpstream() as guarded, ScriptedUpstream() as basic:
        password_file = tmp_path / "ghcr-password"
        password_file.write_text(FILE_PASSWORD)
        dead = free_port()
        guarded.serve("/token", Answer(200, json.dumps({"token": TOKEN}).encode(), ranged=False))
        running = start_millpond(
            {
                "docker.io": guarded.upstream(username="robot", tag_ttl="0s"),
                "ghcr.io": basic.upstream(username="clerk", password_file=str(password_file)),
                "quay.io": {"url": "https://quay.invalid", "connect_timeout": "2s"},
            },
            env={
                "MILLPOND_UPSTREAMS__DOCKER_IO__PASSWORD": PASSWORD,
                "MILLPOND_ADMIN__TOKEN": ADMIN_TOKEN,
                "HTTPS_PROXY": f"http://through:{PROXY_PASSWORD}@127.0.0.1:{dead}",
                "NO_PROXY": "127.0.0.1,localhost",
            },
            log={"level": "debug"},
        )
        made = Planted(running, guarded, basic, Loot())
        made.guard()
        made.clerk()
        yield made


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_secret_is_printed_written_or_answered_whatever_fails(planted: Planted) -> None:
    """S: passwords, tokens, signed URLs and credentials of clients, through every failure of an upstream."""
    image = images.artifact(images.EMPTY_CONFIG, [images.blob(b"layer")])
    planted.guarded.add(image, "team/app", "1")
    planted.basic.add(image, "team/app", "1")
    assert planted.ask("/v2/docker.io/team/app/manifests/1").status == 200
    assert planted.ask("/v2/ghcr.io/team/app/manifests/1").status == 200
    assert planted.blob().status == 200
    for fail in (_fail_at_storage, _fail_at_the_token_server, _fail_at_the_upstream):
        fail(planted)
        planted.millpond.restart()  # it forgets which hosts have failed
    assert planted.ask("/v2/quay.io/a/b/manifests/1").status == 502
    _bad_requests(planted)
    _admin(planted)
    _command_line(planted)

    for upstream, secrets in ((planted.guarded, (BASIC, TOKEN)), (planted.basic, (FILE_BASIC,))):
        seen = " ".join(request.headers.get("authorization", "") for request in upstream.seen(method=""))
        assert all(secret in seen for secret in secrets), "they were sent where they belong, or this proves nothing"
        assert not any(secret in seen for secret in (CLIENT_TOKEN, CLIENT_BASIC))
        assert not any(COOKIE in str(request.headers) for request in upstream.seen(method=""))
    assert all(SIGNATURE in str(request.query) for request in planted.stored)
    assert all("authorization" not in request.headers for request in planted.stored)

    planted.millpond.settle_log()
    _written(planted)
    assert not planted.loot.leaks(PLANTED)


def _fail_at_storage(planted: Planted) -> None:
    for status in (400, 401, 403, 404, 416, 429, 500, 503):
        assert planted.blob(echo(status)).status >= 400
    assert planted.blob(cut(0), echo(404)).status >= 400
    assert planted.blob(html(f"<p>{SIGNATURE}</p>")).status == 502
    for status in (302, 307):
        planted.blob(change(status=status, headers={"Location": f"http://[broken/{SIGNATURE}"}))
        planted.blob(redirect(presigned("http://169.254.169.254", "x"), status))
        planted.blob(redirect(presigned("http://nobody.invalid", "x"), status))
        planted.blob(redirect(presigned(planted.basic.url, "loop"), status))
    assert not _broken_off(planted).complete


def _broken_off(planted: Planted) -> Reply:
    """The answer for a blob that fails once a client has some of it: a break may overtake what was sent before."""
    gate = Gate()
    broken = change(cut_at=1_500_000, ending="reset", gates={1_400_000: gate})
    with ThreadPoolExecutor() as clients:
        reply = clients.submit(planted.blob, broken, echo(404), size=LARGE)
        try:
            sent = "millpond_sent_bytes_total"
            wait_until(lambda: planted.millpond.metric(sent) > 100_000, "the client has some of it")
        finally:
            gate.open()
        return reply.result()


def _fail_at_the_upstream(planted: Planted) -> None:
    for status in (400, 401, 403, 404, 418, 500, 502, 503, 429):
        planted.blob(echo(status), at="upstream")
        planted.guard("/manifests/1", echo(status))
        planted.ask("/v2/docker.io/team/app/manifests/1")
        planted.clerk("/manifests/2", echo(status))
        planted.ask("/v2/ghcr.io/team/app/manifests/2")
        planted.clerk("/tags/list", echo(status))
        planted.ask("/v2/ghcr.io/team/app/tags/list")


def _fail_at_the_token_server(planted: Planted) -> None:
    answers: list[Callable[[int], Fault]] = [echo, lambda status: change(status=status, body=TOKEN.encode())]
    for number, answer in enumerate(answers):
        for status in (200, 302, 400, 401, 403, 404, 500, 429):
            planted.guarded.script("/token", then=answer(status))
            planted.ask(f"/v2/docker.io/team/other-{number}-{status}/manifests/1")
    planted.guarded.script("/token", then=change(body=json.dumps({"token": f"{TOKEN}\n"}).encode()))
    planted.ask("/v2/docker.io/team/another/manifests/1")


def _bad_requests(planted: Planted) -> None:
    basic = {"Authorization": f"Basic {CLIENT_BASIC}"}
    for path in ("/v2/", "/v2/evil.test/a/manifests/1", "/v2/x//y/blobs/z", "/v2/_catalog?n=x", "/nowhere"):
        planted.ask(path, basic)
    reply = get(f"{planted.millpond.url}/v2/a/blobs/uploads/", basic, method="POST", content=b"x")
    assert planted.keep(reply, "a push").status == 405
    assert planted.ask("/v2/", {"X-Large": "x" * 70_000}).status == 431


def _admin(planted: Planted) -> None:
    url = planted.millpond.admin_url
    for path in ("/healthz", "/readyz", "/metrics", "/api/v1/ecr", "/nowhere"):
        planted.keep(get(url + path, {"Authorization": f"Bearer {ADMIN_TOKEN}"}), f"admin {path}")
    for token in (ADMIN_TOKEN, f"{ADMIN_TOKEN}x", ""):
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        planted.keep(get(f"{url}/api/v1/ecr/retry", headers, method="POST", content=b"{}"), "a change")


def _command_line(planted: Planted) -> None:
    env = {
        "MILLPOND_UPSTREAMS__DOCKER_IO__PASSWORD": PASSWORD,
        "MILLPOND_ADMIN__TOKEN": ADMIN_TOKEN,
    }
    for command, more in (
        ("check", {}),
        ("ecr status", {}),
        ("ecr retry", {}),
        ("check", {"MILLPOND_ADMIN__TOKEN": f"{ADMIN_TOKEN} with a space"}),
        ("check", {"MILLPOND_ADMIN": json.dumps({"token": [ADMIN_TOKEN], "tokn": ADMIN_TOKEN})}),
        ("check", {"MILLPOND_UPSTREAMS__DOCKER_IO": json.dumps({"password": {"a": PASSWORD}})}),
        ("check", {"MILLPOND_UPSTREAMS__GHCR_IO__URL": f"https://clerk:{FILE_PASSWORD}@ghcr.io"}),
    ):
        done = millpond(*command.split(), of=planted.millpond, env={**env, **more})
        assert done.returncode or command == "check", done.stdout
        planted.loot.keep(f"millpond {command} with {sorted(more)}", done.stdout + done.stderr)


def _written(planted: Planted) -> None:
    """The log, and every file of the cache directory."""
    planted.loot.keep("the log", planted.millpond.log_text())
    planted.millpond.terminate()
    planted.loot.keep("the log at the end", planted.millpond.log_text())
    files = [file for file in planted.millpond.cache.rglob("*") if file.is_file()]
    assert files
    for file in files:
        planted.loot.keep(file.name, file.read_bytes())


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_key_of_aws_nor_a_signed_url_is_printed_written_or_answered(
    start_millpond: StartMillpond, cloud: EcrDouble
) -> None:
    """S: secret keys, session tokens, ECR's passwords and presigned URLs."""
    with ScriptedUpstream() as upstream, ScriptedUpstream() as own:
        image = images.artifact(images.EMPTY_CONFIG, [images.blob(b"layer" * 1000)])
        own.script("/v2/", then=wanting_basic(usual))
        upstream.add(image, "team/app", "1")
        login = own.upstream(auth="ecr", region="us-east-1", endpoint_url=cloud.url)
        running = start_millpond(
            {"docker.io": upstream.upstream(tag_ttl="0s"), "own.test": login},
            env=cloud.environment,
            ecr=targets(cloud),
            log={"level": "debug"},
        )
        loot = Loot()

        def ask(path: str) -> Reply:
            reply = get(running.url + path)
            loot.keep(path, repr(reply.headers).encode() + reply.body)
            return reply

        def pull() -> None:
            for path in ("manifests/1", *(f"blobs/{blob.digest}" for blob in image.blobs)):
                ask(f"/v2/docker.io/team/app/{path}")

        cloud.fail("UploadLayerPart", "InvalidSignatureException", status=403)
        pull()
        stored = cloud.registry("444455556666", "eu-west-1")
        wait_until(lambda: stored.image("docker.io/team/app", "1"), "the image has been pushed", ARRIVAL)
        ask("/v2/own.test/team/app/manifests/1")
        _empty(running)
        cloud.downloads.seconds = 0  # expired when they are made
        cloud.fail("BatchGetImage", "ExpiredTokenException", status=403)
        pull()
        loot.keep("status", get(f"{running.admin_url}/api/v1/ecr").body)
        loot.keep("metrics", get(f"{running.admin_url}/metrics").body)
        running.settle_log()
        running.terminate()
        loot.keep("the log", running.log_text())
        for file in (file for file in running.cache.rglob("*") if file.is_file()):
            loot.keep(file.name, file.read_bytes())
    secrets = [keys.secret_key for keys in cloud.principals.everyone()]
    secrets += [keys.token for keys in cloud.principals.everyone() if keys.token]
    signed = cloud.downloads.signatures()
    assert len(secrets) > 2
    assert signed
    assert cloud.passwords
    assert not loot.leaks((*secrets, *signed, *cloud.passwords))


def _empty(running: Millpond) -> None:
    """An empty disk, so that what is pulled next comes from ECR."""
    running.terminate()
    shutil.rmtree(running.cache)
    running.start()


def test_what_would_leak_is_found() -> None:
    """The searcher itself: each form of a secret, in a log line as in an answer."""
    for secret in PLANTED:
        for text in (
            secret,
            base64.b64encode(secret.encode()).decode(),
            quote(secret),
            repr(secret),
            json.dumps(secret),
        ):
            loot = Loot()
            loot.keep("a log", f"before {text} after")
            assert loot.leaks((secret,)), text


def test_nothing_is_in_a_secrets_own_words() -> None:
    secret: Any = Secret("planted")
    assert "planted" not in f"{secret} {secret!r} {[secret]} {secret!s} {secret:}"
    with pytest.raises(TypeError):
        json.dumps(secret)
    for write in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not written down"):
            write(secret)
    assert secret == Secret("planted")
    assert secret != Secret("other")
    assert secret != "planted"
