"""Each refusal of the contract: the key's full path, the value, what is wrong and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from proxy.settings import SettingsError, load
from tests.settings.conftest import Load, Refusal
from tests.support.certificates import Authority

TARGET = "name: prod, account: '111122223333', region: us-east-1"


def test_an_unknown_key_is_named_with_the_one_that_was_meant(refusal: Refusal) -> None:
    assert refusal("cache: {max_szie: 1GiB}") == ["cache.max_szie -> unknown key; did you mean max_size?"]
    assert refusal("regsitry: {}") == ["regsitry -> unknown key; did you mean registry?"]
    assert refusal("upstreams: {ghcr.io: {tagttl: 5m}}") == [
        "upstreams.ghcr.io.tagttl -> unknown key; did you mean tag_ttl?"
    ]
    assert refusal(f"ecr: {{targets: [{{{TARGET}, repository: {{kms: x}}}}]}}") == [
        "ecr.targets[0].repository.kms -> unknown key; did you mean kms_key?"
    ]


def test_an_unknown_key_that_is_like_no_other_is_told_which_there_are(refusal: Refusal) -> None:
    known = "directory, max_size, min_free, scrub_rate"
    assert refusal("cache: {foo: 1}") == [f"cache.foo -> unknown key; known here: {known}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cache: {max_size: 50G}", "cache.max_size: '50G' -> the unit 'G' is unknown or ambiguous; write \"50GiB\""),
        ("cache: {max_size: 0}", "cache.max_size: 0 -> must be above zero; write"),
        ("cache: {min_free: lots}", "cache.min_free: 'lots' -> not a size; write"),
        ("cache: {directory: 5}", "cache.directory: 5 -> not a path; write"),
        ("cache: 5GiB", "cache: '5GiB' -> not a mapping; write a mapping with the keys directory, max_size, min_free"),
        ("registry: {listen: 5000}", 'registry.listen: 5000 -> not an address with a port; write "0.0.0.0:5000"'),
        ("registry: {header_timeout: 0}", "registry.header_timeout: 0 -> a deadline must be above zero; write"),
        ("registry: {keep_alive: soon}", "registry.keep_alive: 'soon' -> not a duration; write \"30s\""),
        (
            "registry: {listen: ':5001'}\nadmin: {listen: '0.0.0.0:5001'}",
            "admin.listen: '0.0.0.0:5001' -> this is registry.listen as well; write another port",
        ),
        ("ecr: {targets: {}}", "ecr.targets: a mapping -> not a list; write a list such as [a, b]"),
        ("admin: {listen: 'x:y'}", "admin.listen: 'x:y' -> not an address with a port; write"),
        (
            "default_upstream: hub",
            "default_upstream: 'hub' -> there is no such upstream; one of: docker.io, ghcr.io, registry.k8s.io",
        ),
        ("upstreams: {docker.io: null}", "default_upstream: 'docker.io' -> there is no such upstream; one of: ghcr.io"),
        ("upstreams: [a]", "upstreams: ['a'] -> not a mapping; write keys and values"),
        ("upstreams: {a: 5}", "upstreams.a: 5 -> not a mapping; write a mapping with the keys url, aliases"),
        ("upstreams: {GHCR.io: {}}", "upstreams.GHCR.io: 'GHCR.io' -> not a host name; write a host"),
        ("upstreams: {a/b: {}}", "upstreams.a/b: 'a/b' -> not a host name; write a host"),
        ("upstreams: {v2: {}}", "upstreams.v2: 'v2' -> every path begins with this name; choose another"),
        (
            "upstreams: {registry-1.docker.io: {}}",
            "upstreams.docker.io.aliases: 'registry-1.docker.io' -> this name already means registry-1.docker.io;",
        ),
        (
            "upstreams: {a: {aliases: [x]}, b: {aliases: [x]}}",
            "upstreams.b.aliases: 'x' -> this name already means a; every name and alias must be unique",
        ),
        (
            "upstreams: {a: {aliases: [v2]}}",
            "upstreams.a.aliases: 'v2' -> this name already means the registry API itself",
        ),
        ("upstreams: {a: {aliases: [B]}}", "upstreams.a.aliases[0]: 'B' -> not a host name; write"),
        ("upstreams: {a: {token_hosts: {x: y}}}", "upstreams.a.token_hosts: a mapping -> not a list; write"),
        ("upstreams: {a: {url: ftp://a}}", "upstreams.a.url: 'ftp://a' -> not an http or https URL; write"),
        ("upstreams: {a: {tag_ttl: -1}}", "upstreams.a.tag_ttl: -1 -> must be between zero and a hundred years; write"),
        (
            "upstreams: {a: {on_deleted: keep}}",
            "upstreams.a.on_deleted: 'keep' -> not one of the choices; write 'not_found' or",
        ),
        (
            "upstreams: {a: {connections_per_blob: 0}}",
            "upstreams.a.connections_per_blob: 0 -> too small; write 1 or more",
        ),
        (
            "upstreams: {a: {connections_per_blob: 33}}",
            "upstreams.a.connections_per_blob: 33 -> too large; write 32 or less",
        ),
        (
            "upstreams: {a: {connections_per_blob: yes}}",
            "upstreams.a.connections_per_blob: true -> not a number; write",
        ),
        (
            "upstreams: {a: {connections_per_blob: 1.5}}",
            "upstreams.a.connections_per_blob: 1.5 -> not a whole number; write",
        ),
        ("upstreams: {a: {username: 5}}", "upstreams.a.username: 5 -> not text; write text, in quotes"),
        ("upstreams: {a: {username: ''}}", "upstreams.a.username: '' -> this is empty; write a value"),
        (
            "upstreams: {a: {username: me}}",
            "upstreams.a.password_file: null -> a credential has two halves and this one is",
        ),
        (
            "log: {level: loud}",
            "log.level: 'loud' -> not one of the choices; write 'debug', 'info', 'warning' or 'error'",
        ),
        ("log: {format: text}", "log.format: 'text' -> not one of the choices; write 'auto', 'json' or 'console'"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_right(refusal: Refusal, text: str, problem: str) -> None:
    (line,) = refusal(text)
    assert line.startswith(problem)


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (
            "account: 111122223333, name: a, region: us-east-1",
            "account: 111122223333 -> not an AWS account; write its 12",
        ),
        (
            "account: '1', name: a, region: us-east-1",
            "account: '1' -> not an AWS account; write its 12 digits in quotes",
        ),
        (f"{TARGET}, region: nowhere", None),
        ("name: a, account: '111122223333', region: nowhere", "region: 'nowhere' -> not an AWS region; write its code"),
        ("name: A B, account: '111122223333', region: us-east-1", "name: 'A B' -> not a name; write lower-case"),
        ("name: a, account: '111122223333'", "region -> this key is required; add it"),
        (f"{TARGET}, role_arn: admin", "role_arn: 'admin' -> not a role; write its ARN"),
        (f"{TARGET}, endpoint_url: vpce", "endpoint_url: 'vpce' -> not an http or https URL; write"),
        (
            f"{TARGET}, repository_prefix: '{{up}}/'",
            "repository_prefix: '{up}/' -> not the beginning of a repository name",
        ),
        (
            f"{TARGET}, repository_prefix: mirror",
            "repository_prefix: 'mirror' -> not the beginning of a repository name",
        ),
        (f"{TARGET}, platforms: []", "platforms: [] -> not a choice of platforms; write all, pulled, or a list"),
        (
            f"{TARGET}, platforms: amd64",
            "platforms: 'amd64' -> not a choice of platforms; write all, pulled, or a list",
        ),
        (f"{TARGET}, read: maybe", "read: 'maybe' -> not a truth value; write true or false"),
        (f"{TARGET}, repository: {{kms_key: 'a b'}}", "repository.kms_key: 'a b' -> not a KMS key; write its ARN"),
        (
            f"{TARGET}, repository: {{scan_on_push: 7}}",
            "repository.scan_on_push: 7 -> not a truth value; write true or",
        ),
        (
            f"{TARGET}, repository: {{tag_mutability: NO}}",
            "repository.tag_mutability: false -> not one of the choices; write",
        ),
        (
            f"{TARGET}, repository: {{tag_mutability: IMMUTABLE_WITH_EXCLUSION}}",
            "repository.exclusions: [] -> does not fit tag_mutability IMMUTABLE_WITH_EXCLUSION; *_WITH_EXCLUSION takes",
        ),
        (
            f"{TARGET}, repository: {{exclusions: [latest]}}",
            "repository.exclusions: ['latest'] -> does not fit tag_mutability MUTABLE; *_WITH_EXCLUSION takes",
        ),
        (f"{TARGET}, repository: {{exclusions: [a b]}}", "repository.exclusions[0]: 'a b' -> not a tag pattern; write"),
        (
            f"{TARGET}, repository: {{tags: {{a: 1}}}}",
            "repository.tags -> not a mapping of text to text; write",
        ),
        (
            f"{TARGET}, repository: {{tags: {{aws:x: y}}}}",
            "repository.tags -> the tag 'aws:x' is refused by AWS",
        ),
        (
            f"{TARGET}, repository: {{policy_file: /no}}",
            "repository.policy_file: '/no' -> there is no such file; write",
        ),
    ],
)
def test_a_bad_ecr_target_is_refused_without_asking_aws(refusal: Refusal, target: str, problem: str | None) -> None:
    (line, *_) = refusal(f"ecr: {{targets: [{{{target}}}]}}")
    if problem is None:
        assert "the key 'region' comes twice; correct the YAML" in line
    else:
        assert line.startswith(f"ecr.targets[0].{problem}")


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (
            f"{TARGET}, upstreams: [docker.io, hub]",
            "upstreams: 'hub' -> there is no such upstream; write names of these: docker.io, ghcr.io, registry.k8s.io",
        ),
        (f"{TARGET}, upstreams: []", "upstreams: [] -> not a list of upstreams; write their names, such as"),
        (f"{TARGET}, upstreams: {{a: b}}", "upstreams -> not a list of upstreams; write their names"),
        (
            f"{TARGET}, repository_prefix: mirror/",
            "repository_prefix: 'mirror/' -> images of docker.io and ghcr.io would share repositories; put {upstream}",
        ),
        (
            f"{TARGET}, repository_prefix: '', upstreams: [quay.io, docker.io]",
            "repository_prefix: '' -> images of quay.io and docker.io would share repositories; put {upstream} into it",
        ),
        (
            f"{TARGET}, repository_prefix: '{{upstream}}-{{name}}'",
            "repository_prefix: '{upstream}-{name}' -> not the beginning of a repository name; write parts",
        ),
        (
            f"{TARGET}, repository_prefix: '{{upstream}}/{{name}}/{{name}}'",
            "repository_prefix: '{upstream}/{name}/{name}' -> not the beginning of a repository name",
        ),
        (
            f"{TARGET}, repository_prefix: '{{upstream}}/{{name}}/'",
            "repository_prefix: '{upstream}/{name}/' -> not the beginning of a repository name",
        ),
        (
            f"{TARGET}, repository: {{kms_key: 'arn:aws:kms:eu-west-1:111122223333:key/1a'}}",
            "repository.kms_key: 'arn:aws:kms:eu-west-1:111122223333:key/1a' -> this key is in another region; ECR",
        ),
    ],
)
def test_a_target_that_does_not_fit_its_upstreams_is_refused(refusal: Refusal, target: str, problem: str) -> None:
    (line,) = refusal(f"ecr: {{targets: [{{{target}}}]}}")
    assert line.startswith(f"ecr.targets[0].{problem}")


def test_an_upstream_whose_name_ecr_refuses_is_named(loaded: Load, refusal: Refusal) -> None:
    """A colon is fine in an upstream's name, and in no repository's."""
    upstreams = "upstreams: {'lan:5000': {url: 'http://lan:5000'}}"
    (line,) = refusal(f"{upstreams}\necr: {{targets: [{{{TARGET}}}]}}")
    assert line == (
        "ecr.targets[0].repository_prefix: '{upstream}/' -> the upstream lan:5000 would be in repositories whose names "
        "ECR refuses; leave it out of this target's upstreams, or write a prefix without {upstream}"
    )
    for remedy in ("upstreams: [docker.io]", "upstreams: ['lan:5000'], repository_prefix: lan/"):
        loaded(f"{upstreams}\necr: {{targets: [{{{TARGET}, {remedy}}}]}}")


def test_a_target_for_which_no_upstream_is_left_is_refused(refusal: Refusal) -> None:
    removed = "docker.io: null, ghcr.io: null, registry.k8s.io: null, quay.io: null"
    (line,) = refusal(
        f"upstreams: {{{removed}, public.ecr.aws: {{auth: ecr}}}}\ndefault_upstream: public.ecr.aws\n"
        f"ecr: {{targets: [{{{TARGET}}}]}}"
    )
    assert line.startswith("ecr.targets[0].upstreams: null -> no upstream is left for this target; add one that is")


def test_two_targets_that_would_write_to_the_same_repositories_are_refused(loaded: Load, refusal: Refusal) -> None:
    second = TARGET.replace("prod", "other")
    (line,) = refusal(f"ecr: {{targets: [{{{TARGET}}}, {{{second}, platforms: pulled}}]}}")
    assert line == (
        "ecr.targets[1].repository_prefix: '{upstream}/' -> the target prod writes to the same repositories; "
        "change this, or remove one of the two"
    )
    one, two = "upstreams: [docker.io]", "upstreams: [quay.io]"
    mixed = "repository_prefix: mirror/"
    (line,) = refusal(f"ecr: {{targets: [{{{TARGET}, {one}, {mixed}}}, {{{second}, {two}, {mixed}}}]}}")
    assert line.startswith("ecr.targets[1].repository_prefix: 'mirror/' -> the target prod writes to the same")
    assert len(loaded(f"ecr: {{targets: [{{{TARGET}, {one}}}, {{{second}, {two}}}]}}").ecr.targets) == 2


OWN = "111122223333.dkr.ecr.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("upstream", "problem"),
    [
        ("a: {auth: ecr}", "a.region: null -> the host of url does not name a region; write the one of the registry"),
        (f"{OWN}: {{auth: aws}}", f"{OWN}.auth: (hidden) -> not one of the choices; write 'ecr'"),
        (
            f"{OWN}: {{auth: ecr, region: us-east-1}}",
            f"{OWN}.region: 'us-east-1' -> the login for https://{OWN} is in eu-west-1; write that, or leave it out",
        ),
        (
            "public.ecr.aws: {auth: ecr, region: eu-west-1}",
            "public.ecr.aws.region: 'eu-west-1' -> the login for https://public.ecr.aws is in us-east-1; write that",
        ),
        (f"{OWN}: {{auth: ecr, region: moon}}", f"{OWN}.region: 'moon' -> not an AWS region; write its code"),
        (f"{OWN}: {{auth: ecr, role_arn: me}}", f"{OWN}.role_arn: 'me' -> not a role; write its ARN"),
        (f"{OWN}: {{auth: ecr, endpoint_url: x}}", f"{OWN}.endpoint_url: 'x' -> not an http or https URL; write"),
        ("a: {region: us-east-1}", "a.region: 'us-east-1' -> this has a meaning with auth: ecr only; add that, or"),
        (
            "a: {role_arn: 'arn:aws:iam::111122223333:role/x'}",
            "a.role_arn: 'arn:aws:iam::111122223333:role/x' -> this has a meaning with auth: ecr only; add that, or",
        ),
        ("a: {endpoint_url: 'http://b'}", "a.endpoint_url: 'http://b' -> this has a meaning with auth: ecr only"),
    ],
)
def test_a_login_to_ecr_that_cannot_work_is_refused(refusal: Refusal, upstream: str, problem: str) -> None:
    (line,) = refusal(f"upstreams: {{{upstream}}}")
    assert line.startswith(f"upstreams.{problem}")


def test_a_login_to_ecr_beside_a_password_is_one_too_many(refusal: Refusal, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret")
    assert refusal(f"upstreams: {{{OWN}: {{auth: ecr, username: AWS, password_file: {file}}}}}") == [
        f"upstreams.{OWN}.username: 'AWS' -> auth: ecr logs in by itself; keep one of them"
    ]


def test_two_ecr_targets_of_one_name_are_refused(refusal: Refusal) -> None:
    assert refusal(f"ecr: {{targets: [{{{TARGET}}}, {{{TARGET}}}]}}") == [
        "ecr.targets[1].name: 'prod' -> two targets have this name; give each its own"
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("no", "not JSON"), ("[1]", "not a policy"), ('{"rules": []}', "has 13 characters; ECR takes 100 to 30720")],
)
def test_a_lifecycle_policy_that_ecr_would_refuse_is_refused(
    refusal: Refusal, tmp_path: Path, content: str, reason: str
) -> None:
    file = tmp_path / "policy.json"
    file.write_text(content)
    (line,) = refusal(f"ecr: {{targets: [{{{TARGET}, repository: {{lifecycle_policy_file: {file}}}}}]}}")
    assert line.startswith(f"ecr.targets[0].repository.lifecycle_policy_file: '{file}' -> ")
    assert reason in line


def test_a_certificate_needs_its_key(refusal: Refusal) -> None:
    assert refusal("registry: {tls: {}}") == [
        "registry.tls.cert_file -> this key is required; add it",
        "registry.tls.key_file -> this key is required; add it",
    ]


def test_every_problem_is_listed_at_once(refusal: Refusal) -> None:
    assert len(refusal("cache: {max_size: x, foo: 1}\nlog: {level: x}\nupstreams: {a: {tag_ttl: x}}")) == 4


@pytest.mark.parametrize("key", ["ca_file", "password_file"])
def test_a_file_that_is_missing_or_no_file_is_refused(refusal: Refusal, tmp_path: Path, key: str) -> None:
    missing = tmp_path / "missing"
    assert refusal(f"upstreams: {{a: {{{key}: {missing}}}}}") == [
        f"upstreams.a.{key}: '{missing}' -> there is no such file; write the path of a file that Millpond can read"
    ]
    (line,) = refusal(f"upstreams: {{a: {{{key}: {tmp_path}}}}}")
    assert line.startswith(f"upstreams.a.{key}: '{tmp_path}' -> this is not a regular file; write")


def test_a_file_that_may_not_be_read_is_refused(
    refusal: Refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so that the system's answer is what is replaced here."""
    file = tmp_path / "password"
    file.write_text("x")
    monkeypatch.setattr("proxy.settings.values.os.access", lambda *_: False)
    (line,) = refusal(f"upstreams: {{a: {{username: me, password_file: {file}}}}}")
    assert line.startswith(f"upstreams.a.password_file: '{file}' -> this file cannot be read by user id ")
    assert line.endswith("; change its owner or mode")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"\n", "empty"), (b"\xff\xfe", "not text"), (b"x" * 70_000, "larger than")]
)
def test_a_password_file_without_a_password_is_refused(
    refusal: Refusal, tmp_path: Path, content: bytes, reason: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    (line,) = refusal(f"upstreams: {{a: {{username: me, password_file: {file}}}}}")
    assert line.startswith(f"upstreams.a.password_file: '{file}' -> this file is {reason}")
    assert line.endswith("put the password in it, alone, as UTF-8 text")


def test_a_file_without_a_certificate_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("not a certificate")
    (line,) = refusal(f"upstreams: {{a: {{ca_file: {file}}}}}")
    assert line.startswith(f"upstreams.a.ca_file: '{file}' -> this file holds no PEM certificate; write")


def test_a_certificate_with_another_ones_key_is_refused(loaded: Load, refusal: Refusal, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    one, other = authority.issue(), authority.issue()
    tls = loaded(f"registry: {{tls: {{cert_file: {one.chain_file}, key_file: {one.key_file}}}}}").registry.tls
    assert tls is not None
    (line,) = refusal(f"registry: {{tls: {{cert_file: {one.chain_file}, key_file: {other.key_file}}}}}")
    assert line.startswith(f"registry.tls.cert_file: '{one.chain_file}' -> this and key_file do not make a usable pair")
    assert line.endswith("write a PEM chain, leaf first, and its private key without a passphrase")


def test_a_variable_that_is_refused_is_named(refusal: Refusal) -> None:
    (line,) = refusal(MILLPOND_CACHE__MAX_SIZE="big")
    assert line.startswith("cache.max_size (set by MILLPOND_CACHE__MAX_SIZE): 'big' -> not a size; write")
    assert refusal(MILLPOND_CACHE__MAXSIZE="1GiB") == [
        "cache.maxsize (set by MILLPOND_CACHE__MAXSIZE) -> unknown key; did you mean max_size?"
    ]


def test_an_unknown_variable_is_named_with_the_one_that_was_meant(refusal: Refusal) -> None:
    assert refusal(MILLPOND_CACH__MAX_SIZE="1GiB") == [
        "MILLPOND_CACH__MAX_SIZE -> unknown environment variable; did you mean MILLPOND_CACHE__MAX_SIZE?"
    ]
    (line,) = refusal(MILLPOND_FOO="1")
    assert line.startswith("MILLPOND_FOO -> unknown environment variable; known: MILLPOND_CONFIG, MILLPOND_REGISTRY")


def test_a_variable_that_could_have_no_effect_is_refused(refusal: Refusal) -> None:
    assert refusal(MILLPOND_DEFAULT_UPSTREAM__X="1") == [
        "MILLPOND_DEFAULT_UPSTREAM__X -> unknown environment variable; did you mean MILLPOND_DEFAULT_UPSTREAM?"
    ]
    (line,) = refusal(MILLPOND_ECR__TARGETS="[]", MILLPOND_ECR__TARGETS__0__NAME="a")
    assert line.startswith("MILLPOND_ECR__TARGETS__0__NAME -> a key above this one is set as a whole; keep one")
    (line,) = refusal(MILLPOND_CACHE__MAX_SIZE__X="1")
    assert line.startswith("cache.max_size -> not a size; write")


def test_a_variable_for_an_entry_of_a_list_is_named(refusal: Refusal) -> None:
    (line,) = refusal(f"ecr: {{targets: [{{{TARGET}}}]}}", MILLPOND_ECR__TARGETS__0__REGION="nowhere")
    assert line.startswith("ecr.targets[0].region (set by MILLPOND_ECR__TARGETS__0__REGION): 'nowhere' -> not an AWS")
    (line,) = refusal(f"ecr: {{targets: [{{{TARGET}}}]}}", MILLPOND_ECR__TARGETS__2__NAME="a")
    assert line.startswith("ecr.targets: a mapping -> not a list; write a list")


def test_a_password_in_the_configuration_file_is_refused(refusal: Refusal) -> None:
    """Invariant S: such a file gets copied and committed."""
    (line,) = refusal("upstreams: {a: {username: me, password: s3cret}}")
    assert line.startswith("upstreams.a.password: (hidden) -> a password does not belong into this file; put it")


def test_a_password_and_a_password_file_are_one_too_many(refusal: Refusal, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("x")
    (line,) = refusal(
        f"upstreams: {{ghcr.io: {{username: me, password_file: {file}}}}}",
        MILLPOND_UPSTREAMS__GHCR_IO__PASSWORD="s3cret",
    )
    assert line.endswith("-> password_file is set as well; keep one of them")


# Configurations that are wrong and hold a secret, each at another place.
LEAKS: Final[list[tuple[str, dict[str, str]]]] = [
    ("upstreams: {a: {password: s3cret}}", {}),
    ("upstreams: {a: {passwrd: s3cret}}", {}),
    ("upstreams: {a: {url: 'https://me:s3cret@host/'}}", {}),
    ("upstreams: {a: {username: me, password: [s3cret]}}", {}),
    ("upstreams: s3cret: x", {}),
    ('upstreams: {a: "{password: s3cret', {}),
    ("", {"MILLPOND_UPSTREAMS__GHCR_IO__PASSWORD": "s3cret"}),
    ("", {"MILLPOND_UPSTREAMS__GHCR_IO__PASSWORD": '["s3cret"]'}),
    ("", {"MILLPOND_UPSTREAMS__GHCR_IO__PASWORD": "s3cret"}),
    ("", {"MILLPOND_UPSTREAMS__GHCR_IO": '{"password": "s3cret"'}),
    ("", {"MILLPOND_UPSTREAMS": '{"ghcr.io": {"password": "s3cret"}'}),
    ("", {"MILLPOND_ECR__TARGETS": '[{"password": "s3cret"}'}),
    ("", {"MILLPOND_PASSWORD": "s3cret"}),
]


@pytest.mark.parametrize(("text", "environ"), LEAKS)
def test_no_refusal_shows_a_secret(refusal: Refusal, text: str, environ: dict[str, str]) -> None:
    """Invariant S."""
    assert "s3cret" not in "\n".join(refusal(text, **environ))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.yaml -> there is no such file; write the path of a YAML file"):
        load(tmp_path / "missing.yaml", {})
    with pytest.raises(SettingsError, match="there is no such file"):
        load(None, {"MILLPOND_CONFIG": str(tmp_path / "missing.yaml")})
    with pytest.raises(SettingsError, match=r"cannot be read \(Is a directory\); change its path"):
        load(tmp_path, {})
    with pytest.raises(SettingsError, match=r"cannot be read \(Is a directory\); change its path"):
        load(Path(), {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cache: {a: [", "line 1, column 13 -> "),
        ("cache:\n  max_size: 1GiB\n max_size: 2", "line 3, column 2 -> "),
        ("log: {}\ncache: {}\nlog: {}", "line 3, column 1 -> the key 'log' comes twice; correct the YAML"),
        ("cache: {max_size: 1, max_size: 2}", "line 1, column 22 -> the key 'max_size' comes twice; correct the YAML"),
        ("5000: x", "line 1, column 1 -> the key 5000 is not text, put it in quotes; correct the YAML"),
        ("cache: !!python/object:os.system {}", "line 1, column 8 -> could not determine a constructor"),
        ("listen: [::1]:5000", "line 1, column "),
        ("- a\n- b", "millpond.yaml -> this file is not a mapping; write keys and values"),
        ("just text", "millpond.yaml -> this file is not a mapping; write keys and values"),
        ("a: b\n---\nc: d", "line 2, column 1 -> "),
        ("\0", "millpond.yaml -> this file is not YAML; write keys and values"),
    ],
)
def test_a_file_that_is_no_mapping_of_yaml_is_refused_with_its_line(refusal: Refusal, text: str, problem: str) -> None:
    (line,) = refusal(text)
    assert problem in line


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "millpond.yaml"
    file.write_bytes(b"\xff\xff\xff")
    with pytest.raises(SettingsError, match="not YAML"):
        load(file, {})
    file.write_bytes(b"#" * (4 * 2**20 + 1))
    with pytest.raises(SettingsError, match="larger than"):
        load(file, {})
