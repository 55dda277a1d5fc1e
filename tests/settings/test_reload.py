"""A configuration that is read again, by SIGHUP and by the admin port, while clients are being served."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.cache.register import Register
from proxy.settings import changes, keyed, load
from tests.conftest import StartMillpond
from tests.edge.access import TOKEN, basic, bearer, htpasswd
from tests.support import images
from tests.support.certificates import Authority, Certificate
from tests.support.faults import Gate, Request, change, refuse
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import Reply, get, opened, pull
from tests.support.scripted import ScriptedUpstream
from tests.support.waiting import wait_until

BIG = 4 << 20
TAG = "/v2/library/x/manifests/1"


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as running:
        yield running


@pytest.fixture
def image(upstream: ScriptedUpstream, images_directory: Path) -> Manifest:
    made = images.simple_image(images_directory, seed=70, size=BIG)
    upstream.add(made, "library/x", "1")
    return made


def told(millpond: Millpond) -> tuple[int, dict[str, Any]]:
    """What POST reload answers."""
    headers = {"Content-Type": "application/json"}
    reply = get(f"{millpond.admin_url}/api/v1/reload", headers, method="POST", content=b"{}")
    return reply.status, reply.json()


def reconfigured(millpond: Millpond, **sections: Any) -> dict[str, Any]:
    """What has changed once these sections are in the file, and it has been read again."""
    millpond.configure({**millpond.config, **sections})
    status, answer = told(millpond)
    assert status == 200, answer
    return answer


def hang_up(millpond: Millpond, event: str) -> dict[str, Any]:
    """Send SIGHUP; the line of the log that follows."""
    before = len(millpond.log_lines(event=event))
    millpond.process.send(signal.SIGHUP)
    return wait_until(lambda: millpond.log_lines(event=event)[before:], f"the log says: {event}")[0]


def config_status(millpond: Millpond) -> dict[str, Any]:
    status: dict[str, Any] = get(f"{millpond.admin_url}/api/v1/status").json()["config"]
    return status


def test_sighup_changes_an_upstreams_password_while_a_blob_of_it_is_on_its_way(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    """H: the response that was running before the reload ends whole, over the connection that it began with."""
    secret = tmp_path / "password"
    secret.write_text("old")

    def wants(password: str) -> None:
        def fault(request: Request, answer: Any) -> Any:
            if request.headers.get("authorization") == basic("me", password)["Authorization"]:
                return answer
            return refuse(401, **{"WWW-Authenticate": 'Basic realm="x"'})(request, answer)

        upstream.script("/manifests/", then=fault)

    wants("old")
    millpond = start_millpond(
        {"docker.io": upstream.upstream(username="me", password_file=str(secret), connections_per_blob=1)}
    )
    assert get(f"{millpond.url}{TAG}").status == 200
    layer, gate = image.blobs[-1], Gate()
    upstream.script(layer.digest, change(gates={1 << 20: gate}))
    with opened(f"{millpond.url}/v2/library/x/blobs/{layer.digest}") as running:
        running.read(1 << 20)
        secret.write_text("new")
        wants("new")
        refused = upstream.add_manifest("library/x", b'{"schemaVersion": 2, "n": 1}', images.OCI_MANIFEST)
        assert get(f"{millpond.url}/v2/library/x/manifests/{refused}").status != 200
        line = hang_up(millpond, "configuration reloaded")
        assert line["changed"] == ["upstreams.docker.io.password"]
        fresh = upstream.add_manifest("library/x", b'{"schemaVersion": 2}', images.OCI_MANIFEST)
        assert get(f"{millpond.url}/v2/library/x/manifests/{fresh}").status == 200
        gate.open()
        running.read(layer.size)
        assert running.digest == layer.digest


def test_a_bad_file_is_refused_and_the_log_the_answer_and_the_status_say_why(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()})
    assert config_status(millpond)["file"] == str(millpond.config_file)
    good, loaded = millpond.config_file.read_text(), config_status(millpond)["loaded"]
    millpond.config_file.write_text(good + "\nacces: {}\n")
    line = hang_up(millpond, "configuration refused, the old one stays")
    assert "acces" in line["why"]
    assert "did you mean access?" in line["why"]
    status, answer = told(millpond)
    assert status == 409
    assert "did you mean access?" in answer["error"]
    assert "did you mean access?" in config_status(millpond)["error"]
    assert config_status(millpond)["loaded"] == loaded
    pull(f"{millpond.url}/v2/library/x", image, "1")
    millpond.config_file.write_text(good)
    assert told(millpond) == (200, {"changed": [], "restart": []})
    assert config_status(millpond)["error"] is None
    assert config_status(millpond)["loaded"] > loaded


def test_upstreams_come_and_change_and_go_and_their_tags_age_as_the_new_file_says(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream(tag_ttl="1h")})
    pull(f"{millpond.url}/v2/library/x", image, "1")
    asked = len(upstream.seen("/manifests/1", method=""))
    assert get(f"{millpond.url}{TAG}").status == 200
    assert len(upstream.seen("/manifests/1", method="")) == asked
    with ScriptedUpstream() as other:
        other.add(image, "org/y", "1")
        upstreams = {"docker.io": upstream.upstream(tag_ttl="0s"), "new.test": other.upstream(aliases=["alias.test"])}
        answer = reconfigured(millpond, upstreams=upstreams)
        assert answer == {"changed": ["upstreams.docker.io.tag_ttl", "upstreams.new.test"], "restart": []}
        assert get(f"{millpond.url}{TAG}").status == 200
        assert len(upstream.seen("/manifests/1", method="")) == asked + 1
        for name in ("new.test", "alias.test"):
            pull(f"{millpond.url}/v2/{name}/org/y", image, "1")
        answer = reconfigured(millpond, upstreams={"docker.io": other.upstream()}, default_upstream="docker.io")
        assert "upstreams.new.test" in answer["changed"]
        assert "upstreams.docker.io.url" in answer["changed"]
        assert get(f"{millpond.url}/v2/new.test/org/y/manifests/1").error_code == "NAME_UNKNOWN"
        pull(f"{millpond.url}/v2/org/y", image, "1")


def test_old_connections_to_an_upstream_are_closed_once_they_have_served(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()})
    pull(f"{millpond.url}/v2/library/x", image, "1")
    files = millpond.open_files()
    for seconds in range(40, 60):
        answer = reconfigured(millpond, upstreams={"docker.io": upstream.upstream(read_timeout=f"{seconds}s")})
        assert answer["changed"] == ["upstreams.docker.io.read_timeout"]
        fresh = upstream.add_manifest("library/x", json.dumps({"schemaVersion": 2, "n": seconds}).encode(), "a/b")
        get(f"{millpond.url}/v2/library/x/manifests/{fresh}")
    wait_until(lambda: millpond.open_files() <= files + 5, "twenty reloads have left no connection behind")


def test_users_rules_and_networks_are_those_of_the_new_file_at_once(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, tmp_path: Path
) -> None:
    """S: whoever has been removed is out, although the password had been found right a moment ago."""
    users = tmp_path / "htpasswd"
    htpasswd(users, {"alice": "one", "bob": "two"})
    millpond = start_millpond({"docker.io": upstream.upstream()})
    assert get(f"{millpond.url}{TAG}").status == 200
    answer = reconfigured(millpond, access={"htpasswd_file": str(users)})
    assert answer["changed"] == ["access.htpasswd_file"]
    assert get(f"{millpond.url}{TAG}").status == 401
    assert get(f"{millpond.url}{TAG}", basic("alice", "one")).status == 200
    assert get(f"{millpond.url}{TAG}", basic("bob", "three")).status == 401
    htpasswd(users, {"bob": "three"})
    assert told(millpond)[1]["changed"] == ["access.htpasswd_file"]
    assert get(f"{millpond.url}{TAG}", basic("alice", "one")).status == 401
    assert get(f"{millpond.url}{TAG}", basic("bob", "three")).status == 200
    tokens = tmp_path / "tokens"
    tokens.write_text(f"node:{TOKEN}\n")
    rules = [{"action": "allow", "users": ["node"], "repositories": ["docker.io/library/x"]}]
    reconfigured(millpond, access={"tokens_file": str(tokens), "rules": rules})
    assert get(f"{millpond.url}{TAG}", bearer(TOKEN)).status == 200
    assert get(f"{millpond.url}/v2/library/other/manifests/1", bearer(TOKEN)).status == 403
    answer = reconfigured(millpond, access={"networks": ["192.0.2.0/24"]})
    assert answer["changed"] == ["access.networks", "access.tokens_file", "access.rules"]
    assert get(f"{millpond.url}{TAG}").status == 403
    reconfigured(millpond, access={})
    assert get(f"{millpond.url}{TAG}").status == 200


def test_a_policy_holds_from_the_reload_on_and_its_cooldown_outlives_a_kill(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream(tag_ttl="0s")})
    assert get(f"{millpond.url}{TAG}").status == 200
    answer = reconfigured(millpond, policy={"block": [{"digest": image.digest, "reason": "CVE-1"}]})
    assert answer == {"changed": ["policy.block"], "restart": []}
    refused = get(f"{millpond.url}{TAG}")
    assert refused.status == 403
    assert "CVE-1" in refused.text
    reconfigured(millpond, policy={"cooldown": [{"min_age": "7d"}]})
    refused = get(f"{millpond.url}{TAG}")
    assert refused.status == 403
    assert "was first seen" in refused.text
    first = refused.text.partition(" at ")[2].partition(",")[0]
    wait_until(lambda: Register(millpond.cache / "sightings").held, "it is written down while the program runs")
    millpond.kill()
    millpond.start()
    assert get(f"{millpond.url}{TAG}").text.partition(" at ")[2].partition(",")[0] == first
    reconfigured(millpond, policy={})
    assert get(f"{millpond.url}{TAG}").status == 200


def fingerprint(millpond: Millpond, authority: Authority) -> bytes | None:
    """Of the certificate that a new connection is shown."""
    raw = socket.create_connection(("127.0.0.1", millpond.port), 10)
    with authority.client_context().wrap_socket(raw, server_hostname="localhost") as sock:
        return sock.getpeercert(binary_form=True)


def renewed(own: Certificate, by: Certificate) -> None:
    shutil.copy(by.chain_file, own.chain_file)
    shutil.copy(by.key_file, own.key_file)


def test_a_new_certificate_is_shown_to_new_connections_and_breaks_none(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond, authority: Authority
) -> None:
    own = authority.issue()
    tls = {"cert_file": str(own.chain_file), "key_file": str(own.key_file)}
    millpond = start_millpond({"docker.io": upstream.upstream()}, registry={"tls": tls})
    before = fingerprint(millpond, authority)
    context = authority.client_context()
    kept = http.client.HTTPSConnection("127.0.0.1", millpond.port, timeout=20, context=context)
    try:
        assert asked(kept).status == 200
        renewed(own, authority.issue())
        assert hang_up(millpond, "configuration reloaded")["changed"] == [
            "registry.tls.cert_file",
            "registry.tls.key_file",
        ]
        assert fingerprint(millpond, authority) != before
        socket_before = kept.sock
        assert asked(kept).status == 200
        assert kept.sock is socket_before
        current = fingerprint(millpond, authority)
        shutil.copy(authority.issue().key_file, own.key_file)  # of another pair
        assert told(millpond)[0] == 409
        assert fingerprint(millpond, authority) == current
    finally:
        kept.close()


def asked(connection: http.client.HTTPSConnection) -> http.client.HTTPResponse:
    connection.request("GET", TAG)
    response = connection.getresponse()
    response.read()
    return response


def test_what_needs_a_restart_is_named_until_it_has_had_one(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()})
    cache = {**millpond.config["cache"], "max_size": "10GiB"}
    log = {**millpond.config["log"], "level": "debug"}
    upstreams = {"docker.io": upstream.upstream(tag_ttl="1h")}
    answer = reconfigured(millpond, cache=cache, log=log, upstreams=upstreams)
    assert answer == {"changed": ["upstreams.docker.io.tag_ttl"], "restart": ["cache.max_size", "log.level"]}
    assert told(millpond)[1] == {"changed": [], "restart": ["cache.max_size", "log.level"]}
    assert config_status(millpond)["restart"] == ["cache.max_size", "log.level"]
    named = {"level": "warning", "keys": ["cache.max_size", "log.level"]}
    wait_until(lambda: millpond.log_lines(**named), "the log names what waits for a restart")
    millpond.restart()
    assert told(millpond)[1] == {"changed": [], "restart": []}


def test_a_storm_of_sighups_and_of_pulls_disturb_each_other_in_nothing(
    upstream: ScriptedUpstream, image: Manifest, start_millpond: StartMillpond
) -> None:
    millpond = start_millpond({"docker.io": upstream.upstream()})
    for number in range(60):
        millpond.configure({**millpond.config, "upstreams": {"docker.io": upstream.upstream(read_timeout=30 + number)}})
        millpond.process.send(signal.SIGHUP)
        reply: Reply = get(f"{millpond.url}{TAG}")
        assert reply.status == 200
        fresh = upstream.add_blob("library/x", str(number).encode() * 1000)
        assert get(f"{millpond.url}/v2/library/x/blobs/{fresh}").digest == fresh
    wait_until(lambda: told(millpond) == (200, {"changed": [], "restart": []}), "the last one is in force")


def test_what_changed_is_named_by_the_shortest_key_that_says_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    secret = tmp_path / "secret"
    secret.write_text("x" * 20)
    old.write_text("upstreams: {docker.io: {tag_ttl: 1m}}\n")
    new.write_text(f"upstreams: {{docker.io: {{tag_ttl: 2m}}, a.test: {{}}}}\nadmin: {{token_file: {secret}}}\n")
    found = changes(keyed(load(old, {})), keyed(load(new, {})))
    assert found == [
        ("admin", "token"),
        ("admin", "token_file"),
        ("upstreams", "docker.io", "tag_ttl"),
        ("upstreams", "a.test"),
    ]
    assert "x" * 20 not in repr(keyed(load(new, {})))
