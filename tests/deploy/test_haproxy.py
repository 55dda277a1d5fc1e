"""The HAProxy configuration that we ship: one home for each blob and each repository, whatever it is called."""

from __future__ import annotations

import hashlib
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.edge.routes import Namespace, parse
from proxy.settings import Settings
from tests.deploy.haproxy import SHIPPED, HAProxy, Server, echo
from tests.support.ports import free_port
from tests.support.programs import find, program, require, run
from tests.support.pulls import get
from tests.support.waiting import wait_until

BLOBS = 600
# A quarter of 600, four standard deviations of chance and 3 % of unevenness of the ring's 1,600 places to each side.
MOVED = (BLOBS * 0.16, BLOBS * 0.34)

DIGEST = f"sha256:{'a' * 64}"

# What a client may put before or behind a repository's name, each with the name that it means.
STYLES = {
    "docker.io/library/{}": (
        "/v2/{}/",
        "/v2/library/{}/",
        "/v2/docker.io/{}/",
        "/v2/docker.io/library/{}/",
        "/v2/index.docker.io/library/{}/",
        "/v2/registry-1.docker.io/{}/",
        "/docker.io/v2/library/{}/",
        "/docker.io/v2/{}/",
        "/v2/library/{}/?ns=docker.io",
        "/v2/{}/?ns=docker.io",
        "/v2/library/{}/?ns=registry-1.docker.io",
        "/v2/docker.io/library/{}/?ns=docker.io",
        "/docker.io/v2/library/{}/?ns=docker.io",
        "/v2/library/{}/?ns=DOCKER.IO",
        "/v2/library/{}/?ns=docker%2Eio",
    ),
    "docker.io/org/{}": ("/v2/org/{}/", "/v2/docker.io/org/{}/", "/docker.io/v2/org/{}/", "/v2/org/{}/?ns=docker.io"),
    "ghcr.io/org/{}": (
        "/v2/ghcr.io/org/{}/",
        "/v2/GHCR.io/org/{}/",
        "/ghcr.io/v2/org/{}/",
        "/ghcr.io/v2/ghcr.io/org/{}/",
        "/v2/org/{}/?ns=ghcr.io",
        "/v2/ghcr.io/org/{}/?ns=ghcr.io",
        "/ghcr.io/v2/org/{}/?ns=ghcr.io",
    ),
    "localhost:5000/{}": ("/v2/localhost:5000/{}/", "/v2/{}/?ns=localhost:5000", "/v2/{}/?ns=localhost%3A5000"),
    "docker.io/twice/twice/{}": (
        "/v2/twice/twice/{}/",
        "/v2/docker.io/twice/twice/{}/",
        "/v2/twice/twice/{}/?ns=docker.io",
    ),
    # An upstream's name need not look like a host.
    "corp/team/{}": ("/v2/corp/team/{}/", "/corp/v2/team/{}/", "/v2/team/{}/?ns=corp"),
}
ITEMS = ("manifests/latest", f"manifests/{DIGEST}", "tags/list", f"referrers/{DIGEST}")


@pytest.fixture(scope="module", autouse=True)
def _program() -> None:
    require("haproxy")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Twelve servers that answer everything."""
    ports = [free_port() for _ in range(12)]
    process = echo(ports, tmp_path_factory.mktemp("echo"))
    yield [Server(port, port) for port in ports]
    process.stop()


StartHAProxy = Callable[..., HAProxy]


@pytest.fixture
def start_haproxy(tmp_path: Path) -> Iterator[StartHAProxy]:
    started: list[HAProxy] = []

    def start(servers: list[Server], **options: Callable[[str], str]) -> HAProxy:
        started.append(HAProxy(servers, tmp_path / f"haproxy-{len(started)}", **options))
        return started[-1].start()

    yield start
    for made in started:
        made.stop()


def named(style: str, name: str, item: str) -> str:
    """The path and query of `item` in the repository `name`, as `style` has it."""
    path, _, query = style.format(name).partition("?")
    return f"{path}{item}{'?' if query else ''}{query}"


def digest(number: int) -> str:
    return f"sha256:{hashlib.sha256(str(number).encode()).hexdigest()}"


def blob_paths(count: int) -> list[str]:
    return [f"/v2/library/app/blobs/{digest(number)}" for number in range(count)]


def test_the_file_is_valid_as_it_is_shipped_and_haproxy_has_nothing_to_warn_of() -> None:
    run([program("haproxy"), "-c", "-dW", "-f", str(SHIPPED)])


@pytest.mark.parametrize("meaning", STYLES)
def test_every_name_of_a_repository_leads_to_one_home(
    meaning: str, servers: list[Server], start_haproxy: StartHAProxy
) -> None:
    """The names are also read by Millpond itself, so that this list cannot be about other names than its own."""
    haproxy = start_haproxy(servers)
    known = {**Settings(None, {}).names, "localhost:5000": "localhost:5000", "corp": "corp"}
    namespace = Namespace(known, "docker.io")
    for number in range(8):  # by chance alone, eight repositories would hardly have one home each
        paths = [named(style, f"app-{number}", item) for style in STYLES[meaning] for item in ITEMS]
        for path in paths:
            raw_path, _, query = path.partition("?")
            repository = parse(raw_path, query, namespace).repository
            assert str(repository) == meaning.format(f"app-{number}"), path
        homes = dict(zip(paths, haproxy.homes(paths), strict=True))
        assert len(set(homes.values())) == 1, homes


def test_repositories_and_clients_pings_are_spread(servers: list[Server], start_haproxy: StartHAProxy) -> None:
    haproxy = start_haproxy(servers)
    repositories = haproxy.homes([f"/v2/ghcr.io/org/app-{number}/manifests/1" for number in range(200)])
    assert len(set(repositories)) == len(servers)
    assert len(set(haproxy.homes(["/v2/", "/v2", "/v2/_catalog", "/v2/_catalog?n=5"]))) == 1  # of one client


def test_a_blob_has_one_home_whatever_repository_it_is_asked_for_in(
    servers: list[Server], start_haproxy: StartHAProxy
) -> None:
    haproxy = start_haproxy(servers)
    styles = [style for styles in STYLES.values() for style in styles]
    for number in range(10):
        paths = [named(style, f"app-{number}", f"blobs/{digest(number)}") for style in styles]
        paths.append(f"/v2/library/blobs/blobs/{digest(number).replace(':', '%3A')}")
        assert len(set(haproxy.homes(paths))) == 1
    assert len(set(haproxy.homes(blob_paths(200)))) == len(servers)


def test_a_fourth_instance_takes_about_a_quarter_of_the_blobs_and_no_other_blob_moves(
    servers: list[Server], start_haproxy: StartHAProxy
) -> None:
    before = start_haproxy(servers[:3]).homes(blob_paths(BLOBS))
    after = start_haproxy(servers[:4]).homes(blob_paths(BLOBS))
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"millpond-3"}
    assert MOVED[0] < len(moved) < MOVED[1]
    assert min(Counter(before).values()) > BLOBS / 3 * 0.75


def test_two_haproxys_agree_on_every_home_though_the_addresses_differ(
    servers: list[Server], start_haproxy: StartHAProxy
) -> None:
    """Pods that come back have other addresses, and there is more than one HAProxy."""
    assert start_haproxy(servers[:3]).homes(blob_paths(100)) == start_haproxy(servers[5:8]).homes(blob_paths(100))


def test_a_request_that_has_brought_no_byte_is_tried_once_more_elsewhere(
    servers: list[Server], start_haproxy: StartHAProxy
) -> None:
    """One server refuses connections, one takes the request and hangs up; both pass their checks."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        deaf = Server(bound.getsockname()[1], servers[0].check)
        bound.listen()
        bound.settimeout(0.1)
        refusing = Server(free_port(), servers[0].check)
        haproxy = start_haproxy([refusing, servers[1], deaf])
        hung_up = 0
        for path in blob_paths(12):
            with closing(socket.create_connection(("127.0.0.1", haproxy.port), timeout=20)) as client:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                hung_up += _hang_up(bound)
                answer = b"".join(iter(lambda: client.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"millpond-1" in answer
        assert hung_up
        assert "DOWN" in haproxy.states()["millpond-0"]  # three refusals, and it is left alone


def _hang_up(listener: socket.socket) -> int:
    """Take the requests that wait, and end their connections without an answer."""
    count = 0
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            return count
        with connection:
            connection.settimeout(5)
            count += bool(connection.recv(65536))


def test_without_a_ready_instance_clients_are_told_so_in_ocis_form(start_haproxy: StartHAProxy) -> None:
    dead = free_port()
    haproxy = start_haproxy([Server(dead, dead)])
    wait_until(lambda: not haproxy.up("millpond-0"), "HAProxy has noticed")
    answer = get(f"{haproxy.url}/v2/library/alpine/manifests/latest")
    assert (answer.status, answer.error_code) == (503, "UNAVAILABLE")
    operator = f"http://127.0.0.1:{haproxy.operator_port}"
    assert get(f"{operator}/readyz").status == 503
    assert get(f"{operator}/healthz").status == 200  # to start HAProxy anew would help nobody


def test_operators_have_health_and_metrics_and_servers_the_clients_address(
    servers: list[Server], start_haproxy: StartHAProxy
) -> None:
    haproxy = start_haproxy(servers[:3])
    for said in ({}, {"X-Forwarded-For": "10.9.9.9"}):  # which is no client's to say
        assert get(f"{haproxy.url}/v2/", said).headers["x-seen"] == "127.0.0.1"
    operator = f"http://127.0.0.1:{haproxy.operator_port}"
    assert get(f"{operator}/readyz").status == 200
    assert 'haproxy_server_status{proxy="instances",server="millpond-2"' in get(f"{operator}/metrics").text
    assert get(f"{operator}/").status == 404


def test_http_2_is_off_on_purpose(servers: list[Server], start_haproxy: StartHAProxy) -> None:
    haproxy = start_haproxy(servers[:1])
    host = urlsplit(haproxy.url)
    with closing(socket.create_connection((host.hostname, host.port), timeout=10)) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        assert not client.recv(100).startswith(b"\x00\x00")  # a settings frame is what HTTP/2 would begin with


def test_its_deadlines_fit_those_of_millpond_and_of_clients() -> None:
    seconds = {
        name: float(number) * {"s": 1, "m": 60}[unit]
        for name, number, unit in re.findall(r"^    timeout (\S+) (\d+)([sm])$", SHIPPED.read_text(), re.MULTILINE)
    }
    registry = Settings(None, {}).registry
    assert seconds["http-keep-alive"] >= registry.keep_alive > 120  # BuildKit's
    assert seconds["client"] > registry.write_timeout
    assert seconds["server"] >= 600
    assert seconds["connect"] + seconds["queue"] < 30  # containerd's for a mirror's answer


# What a place decides: addresses, users, the drain, DNS. Everything else is one text.
_OF_THE_PLACE = re.compile(
    r"server |bind |user |group |stats socket |hard-stop-after |ssl-|hash-balance-factor |"
    r"http-request set-var\(txn\.default\) "
)


def test_the_chart_has_the_same_text_but_for_what_a_cluster_decides() -> None:
    assert _statements(_of_the_chart()) == _statements(SHIPPED.read_text())


def _of_the_chart() -> str:
    """As helm renders it; without helm, the template with its own lines left out."""
    if find("helm"):
        from tests.deploy.helm import render

        configs = [made["data"] for made in render({}) if made["kind"] == "ConfigMap"]
        return next(str(data["haproxy.cfg"]) for data in configs if "haproxy.cfg" in data)
    text = (SHIPPED.parents[1] / "helm/millpond/files/haproxy.cfg.tpl").read_text()
    port = re.sub(r"check port \{\{[^}]*\}\}", "check port 5001", text)
    return "\n".join(line for line in port.splitlines() if "{{" not in line)


def _statements(text: str) -> list[str]:
    """Its lines without comments, without the resolvers, and without what a place decides; in order."""
    text = re.sub(r"^resolvers .*\n(?:    .*\n|\n)*", "", text, flags=re.MULTILINE)
    text = text.replace(" resolvers cluster init-addr none", "")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#") and not _OF_THE_PLACE.match(line)]
