"""Rules: who may pull what, and what of lists is shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.edge.rules import Rule, Rules
from proxy.oci.names import Repository, Tag
from proxy.pull.rules import Globs
from tests.edge.access import TOKEN, basic, bearer, htpasswd, message, names
from tests.support import images
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.pulls import get, pull
from tests.support.scripted import ScriptedUpstream

HUB, GHCR = Repository("docker.io", "library/x"), Repository("ghcr.io", "org/team/x")
LATEST, ONE = Tag("latest"), Tag("v1")


def _rule(allow: bool, reason: str = "", upstreams: str = "", **globs: str) -> Rule:
    patterns = {key: Globs(value.split()) for key, value in globs.items()}
    return Rule(allow, reason=reason, upstreams=frozenset(upstreams.split()) if upstreams else None, **patterns)


@pytest.mark.parametrize(
    ("rules", "default", "asked", "allowed"),
    [
        ([], True, ("", HUB, None), True),
        ([], False, ("", HUB, None), False),
        ([_rule(True)], False, ("", HUB, ONE), True),
        ([_rule(True, upstreams="ghcr.io")], False, ("", HUB, ONE), False),
        ([_rule(True, upstreams="ghcr.io docker.io")], False, ("", HUB, ONE), True),
        ([_rule(True, repositories="docker.io/library/*")], False, ("", HUB, ONE), True),
        ([_rule(True, repositories="docker.io/library")], False, ("", HUB, ONE), False),
        ([_rule(True, repositories="ghcr.io/org/*")], False, ("", GHCR, None), True),  # slashes included
        ([_rule(True, repositories="*/x")], False, ("", GHCR, None), True),
        ([_rule(True, users="ci")], False, ("ci", HUB, ONE), True),
        ([_rule(True, users="ci")], False, ("CI", HUB, ONE), False),
        ([_rule(True, users="ci")], False, ("", HUB, ONE), False),
        ([_rule(True, users="node-?.example")], False, ("node-7.example", HUB, ONE), True),
        ([_rule(True, users="?*")], False, ("", HUB, ONE), False),
        # The first one decides.
        ([_rule(False, users="ci"), _rule(True)], False, ("ci", HUB, ONE), False),
        ([_rule(True), _rule(False, users="ci")], False, ("ci", HUB, ONE), True),
        # What denies a tag denies its name; what allows one allows the digests that it leads to.
        ([_rule(False, tags="latest")], True, ("", HUB, LATEST), False),
        ([_rule(False, tags="latest")], True, ("", HUB, ONE), True),
        ([_rule(False, tags="latest")], True, ("", HUB, None), True),
        ([_rule(True, tags="v*")], False, ("", HUB, ONE), True),
        ([_rule(True, tags="v*")], False, ("", HUB, LATEST), False),
        ([_rule(True, tags="v*")], False, ("", HUB, None), True),
        ([_rule(True, tags="v*", upstreams="ghcr.io")], False, ("", HUB, None), False),
        # What denies without tags denies all of it.
        ([_rule(False, upstreams="docker.io")], True, ("", HUB, None), False),
        ([_rule(False, upstreams="docker.io")], True, ("", HUB, LATEST), False),
    ],
)
def test_the_first_rule_that_matches_decides(
    rules: list[Rule], default: bool, asked: tuple[str, Repository, Tag | None], allowed: bool
) -> None:
    assert Rules(rules, default=default).verdict(*asked).allowed is allowed


@pytest.mark.parametrize(
    ("rules", "asked", "depends"),
    [
        ([_rule(True, users="ci")], ("", HUB, None), True),
        ([_rule(True, users="ci", upstreams="ghcr.io")], ("", HUB, None), False),
        ([_rule(False, users="")], ("", HUB, None), True),
        ([_rule(False), _rule(True, users="ci")], ("", HUB, None), False),
        ([_rule(True, users="ci"), _rule(False)], ("", HUB, None), True),
    ],
)
def test_a_denial_says_whether_another_user_could_be_let_in(
    rules: list[Rule], asked: tuple[str, Repository, Tag | None], depends: bool
) -> None:
    verdict = Rules(rules, default=False).verdict(*asked)
    assert (verdict.allowed, verdict.depends) == (False, depends)


RULES = [
    {"action": "deny", "repositories": ["docker.io/library/bad*"], "reason": "use docker.io/library/good instead"},
    {"action": "deny", "users": [""], "tags": ["internal-*"]},
    {"action": "allow", "users": ["ci"], "upstreams": ["hub-alias", "ghcr.io"]},
    {"action": "allow", "repositories": ["docker.io/library/*"]},
]
CI = bearer(TOKEN)


class House:
    """Rules before two upstreams; good and bad at Docker Hub, app at GHCR. All of it is cached."""

    def __init__(self, millpond: Millpond, hub: ScriptedUpstream, image: Manifest) -> None:
        self.millpond, self.hub, self.image = millpond, hub, image


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, images_directory: Path) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("rules")
    tokens = directory / "tokens"
    tokens.write_text(f"ci:{TOKEN}\n")
    users = htpasswd(directory / "htpasswd", {"dev": "a password"})
    image = images.simple_image(images_directory, seed=31)
    with ScriptedUpstream() as hub, ScriptedUpstream() as ghcr:
        for name in ("library/good", "library/bad", "library/worse", "team/app"):
            hub.add(image, name, "1", "2", *(f"internal-{number}" for number in range(5)), "zz")
        ghcr.add(image, "org/app", "1")
        upstreams = {"docker.io": hub.upstream(aliases=["hub-alias"]), "ghcr.io": ghcr.upstream()}
        millpond = Millpond({"upstreams": upstreams}, directory).start()
        for name in ("docker.io/library/good", "docker.io/library/bad", "docker.io/team/app", "ghcr.io/org/app"):
            pull(f"{millpond.url}/v2/{name}", image, "1")
        access = {"htpasswd_file": users, "tokens_file": str(tokens), "anonymous": True, "rules": RULES}
        millpond.configure({"upstreams": upstreams, "access": access})
        millpond.restart()
        yield House(millpond, hub, image)
        millpond.stop()
    assert not millpond.complaints()


def test_what_the_rules_allow_is_pulled_whole(house: House) -> None:
    pull(f"{house.millpond.url}/v2/docker.io/library/good", house.image, "1")
    for name, tag in (("docker.io/team/app", "internal-1"), ("ghcr.io/org/app", "1")):
        manifest = get(f"{house.millpond.url}/v2/{name}/manifests/{tag}", CI)
        assert (manifest.status, manifest.digest) == (200, house.image.digest)
        assert get(f"{house.millpond.url}/v2/{name}/blobs/{house.image.blobs[0].digest}", CI).status == 200


@pytest.mark.parametrize("headers", [{}, CI, basic("dev", "a password")])
@pytest.mark.parametrize(
    "part", ["manifests/1", "manifests/{digest}", "blobs/{blob}", "tags/list", "referrers/{digest}"]
)
@pytest.mark.parametrize("style", ["/v2/docker.io/library/bad", "/v2/bad", "/hub-alias/v2/library/bad"])
def test_what_they_deny_is_denied_by_every_name_also_when_it_is_cached(
    house: House, headers: dict[str, str], part: str, style: str
) -> None:
    """S: to a user and to nobody, with the reason, and without asking upstream."""
    asked = len(house.hub.requests)
    part = part.format(digest=house.image.digest, blob=house.image.blobs[0].digest)
    reply = get(f"{house.millpond.url}{style}/{part}", headers)
    assert (reply.status, reply.error_code) == (403, "DENIED")
    tag = ":1" if part == "manifests/1" else ""
    assert message(reply) == (
        f"docker.io/library/bad{tag} may not be pulled here: use docker.io/library/good instead (access.rules[0])"
    )
    assert len(house.hub.requests) == asked


def test_whoever_could_be_let_in_with_credentials_is_asked_for_them(house: House) -> None:
    for path in ("/v2/ghcr.io/org/app/manifests/1", "/v2/library/good/manifests/internal-1"):
        reply = get(house.millpond.url + path)
        assert (reply.status, reply.error_code) == (401, "UNAUTHORIZED")
        assert "www-authenticate" in reply.headers
        assert message(reply).endswith("; it may be with a user's credentials")
    # dev has some, and they do not help.
    reply = get(f"{house.millpond.url}/v2/ghcr.io/org/app/manifests/1", basic("dev", "a password"))
    assert (reply.status, reply.error_code) == (403, "DENIED")
    assert "none of the operator's rules allows it (access.default)" in message(reply)
    # Wrong ones are not as good as none.
    assert get(f"{house.millpond.url}/v2/library/good/manifests/1", bearer("x" * 20)).status == 401


@pytest.mark.parametrize("n", [1, 2, 3, 1000])
def test_a_list_of_tags_has_those_only_that_may_be_pulled(house: House, n: int) -> None:
    """S: no page's link names another one either."""
    found, links = names(house.millpond, f"/v2/library/good/tags/list?n={n}", "tags")
    assert found == ["1", "2", "zz"]
    assert not [link for link in links if "internal" in link]
    every, _ = names(house.millpond, f"/v2/library/good/tags/list?n={n}", "tags", **CI)
    assert every == ["1", "2", *(f"internal-{number}" for number in range(5)), "zz"]


@pytest.mark.parametrize("n", [1, 1000])
def test_the_catalogue_has_those_repositories_only_that_may_be_pulled(house: House, n: int) -> None:
    """S."""
    found, _ = names(house.millpond, f"/v2/_catalog?n={n}", "repositories")
    assert found == ["docker.io/library/good"]
    every, _ = names(house.millpond, f"/v2/_catalog?n={n}", "repositories", **CI)
    assert every == ["docker.io/library/good", "docker.io/team/app", "ghcr.io/org/app"]
    of_one, _ = names(house.millpond, f"/v2/_catalog?n={n}&ns=ghcr.io", "repositories")
    assert of_one == []


def test_a_reference_that_is_none_is_told_so(house: House) -> None:
    assert get(f"{house.millpond.url}/v2/library/good/manifests/{'t' * 129}").error_code == "TAG_INVALID"
