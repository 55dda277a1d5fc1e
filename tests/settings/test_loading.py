"""Built-in upstreams, the file over them, the environment over both."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from pydantic import ValidationError

from proxy.settings import Listen, Size, load
from proxy.settings.defaults import default_directory
from tests.settings.conftest import Load


def test_without_a_file_everything_has_a_default() -> None:
    settings = load(None, {})
    assert settings.registry.listen == Listen("0.0.0.0", 5000)
    assert settings.admin.listen == Listen("127.0.0.1", 5001)
    assert settings.cache.max_size == Size.parse("50GiB")
    assert settings.cache.min_free == Size.parse("2GiB")
    assert settings.default_upstream == "docker.io"
    assert settings.ecr.targets == ()
    assert settings.log.format == "auto"


def test_four_upstreams_are_built_in() -> None:
    upstreams = load(None, {}).upstreams
    assert {name: upstream.url for name, upstream in upstreams.items()} == {
        "docker.io": "https://registry-1.docker.io",
        "ghcr.io": "https://ghcr.io",
        "registry.k8s.io": "https://registry.k8s.io",
        "quay.io": "https://quay.io",
    }
    hub = upstreams["docker.io"]
    assert hub.aliases == ("index.docker.io", "registry-1.docker.io")
    assert hub.token_hosts == ("auth.docker.io",)
    assert (hub.tag_ttl, hub.stale_for, hub.on_deleted, hub.connections_per_blob) == (300, 604800, "not_found", 8)
    assert (hub.username, hub.password, hub.password_file, hub.ca_file) == (None, None, None, None)


def test_settings_do_not_change_after_loading(loaded: Load) -> None:
    settings = loaded()
    with pytest.raises(ValidationError, match="frozen"):
        settings.default_upstream = "ghcr.io"  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.upstreams["x"] = settings.upstreams["ghcr.io"]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        settings.registry.listen.port = 1  # type: ignore[misc]


def test_a_key_of_an_upstream_changes_only_itself(loaded: Load) -> None:
    hub = loaded("upstreams: {docker.io: {tag_ttl: 1m}}").upstreams["docker.io"]
    assert (hub.tag_ttl, hub.url, hub.token_hosts) == (60, "https://registry-1.docker.io", ("auth.docker.io",))


def test_a_list_replaces_the_built_in_one(loaded: Load) -> None:
    assert loaded("upstreams: {docker.io: {aliases: []}}").upstreams["docker.io"].aliases == ()


def test_credentials_for_another_host_may_not_go_where_the_built_in_ones_may(loaded: Load) -> None:
    """Invariant S: `token_hosts` belongs to the host that it was written for."""
    assert loaded("upstreams: {docker.io: {url: 'https://mirror.local'}}").upstreams["docker.io"].token_hosts == ()


def test_a_new_upstream_without_a_url_is_its_own_host(loaded: Load) -> None:
    upstreams = loaded("upstreams:\n  registry.example.com:5443:\n  lan: {url: 'http://10.0.0.1:5000/'}").upstreams
    assert upstreams["registry.example.com:5443"].url == "https://registry.example.com:5443"
    assert upstreams["lan"].url == "http://10.0.0.1:5000"


def test_null_removes_a_built_in_upstream(loaded: Load) -> None:
    assert "quay.io" not in loaded("upstreams: {quay.io: null}").upstreams


@pytest.mark.parametrize("text", ["", "# nothing\n", "cache:\nupstreams:\nlog:\necr:\nregistry:\nadmin:\n"])
def test_an_empty_file_or_section_means_the_defaults(loaded: Load, text: str) -> None:
    assert loaded(text) == load(None, {})


def test_the_environment_wins_over_the_file_key_by_key(loaded: Load) -> None:
    settings = loaded("cache: {max_size: 1GiB, min_free: 3GiB}", MILLPOND_CACHE__MAX_SIZE="80GiB")
    assert settings.cache.max_size == Size.parse("80GiB")
    assert settings.cache.min_free == Size.parse("3GiB")


def test_the_environment_reaches_every_level(loaded: Load) -> None:
    settings = loaded(
        MILLPOND_REGISTRY__LISTEN="[::1]:0",
        MILLPOND_DEFAULT_UPSTREAM="ghcr.io",
        MILLPOND_LOG='{"level": "debug", "format": "json"}',
        MILLPOND_LOG__FORMAT="console",
        MILLPOND_ECR__TARGETS__0='{"name": "prod", "account": "111122223333", "region": "us-east-1"}',
        MILLPOND_ECR__TARGETS__0__REPOSITORY__SCAN_ON_PUSH="false",
        MILLPOND_ECR__TARGETS__0__PLATFORMS="linux/amd64,linux/arm64",
    )
    assert settings.registry.listen == Listen("::1", 0)
    assert settings.default_upstream == "ghcr.io"
    assert (settings.log.level, settings.log.format) == ("debug", "console")
    (target,) = settings.ecr.targets
    assert target.platforms == ("linux/amd64", "linux/arm64")
    assert not target.repository.scan_on_push


def test_an_upstream_is_named_in_the_environment_with_dots_or_underscores(loaded: Load) -> None:
    environ = {
        "MILLPOND_UPSTREAMS__docker.io__TAG_TTL": "1m",
        "MILLPOND_UPSTREAMS__REGISTRY_K8S_IO__TAG_TTL": "2m",
        "MILLPOND_UPSTREAMS__MY_LAN__TAG_TTL": "3m",
        "MILLPOND_UPSTREAMS__example.com__URL": "http://127.0.0.1:5000",
        "MILLPOND_UPSTREAMS__QUAY_IO": "null",
    }
    upstreams = loaded("upstreams: {my-lan: {}}", **environ).upstreams
    assert upstreams["docker.io"].tag_ttl == 60
    assert upstreams["registry.k8s.io"].tag_ttl == 120
    assert upstreams["my-lan"].tag_ttl == 180
    assert upstreams["example.com"].url == "http://127.0.0.1:5000"
    assert "quay.io" not in upstreams


def test_all_upstreams_may_come_as_json(loaded: Load) -> None:
    upstreams = loaded(MILLPOND_UPSTREAMS='{"docker.io": {"tag_ttl": 7}, "a.b": {"aliases": ["c"]}}').upstreams
    assert upstreams["docker.io"].tag_ttl == 7
    assert upstreams["a.b"].aliases == ("c",)


def test_an_empty_variable_counts_as_not_set(loaded: Load) -> None:
    assert loaded(MILLPOND_CACHE__MAX_SIZE="") == load(None, {})


def test_a_list_in_the_environment_is_separated_by_commas(loaded: Load) -> None:
    upstream = loaded(MILLPOND_UPSTREAMS__GHCR_IO__ALIASES="a.b, c.d").upstreams["ghcr.io"]
    assert upstream.aliases == ("a.b", "c.d")


def test_variables_that_kubernetes_sets_for_a_service_are_not_ours(loaded: Load) -> None:
    links = {
        "MILLPOND_SERVICE_HOST": "10.0.0.1",
        "MILLPOND_SERVICE_PORT": "5000",
        "MILLPOND_SERVICE_PORT_REGISTRY": "5000",
        "MILLPOND_PORT": "tcp://10.0.0.1:5000",
        "MILLPOND_PORT_5000_TCP": "tcp://10.0.0.1:5000",
        "MILLPOND_PORT_5000_TCP_ADDR": "10.0.0.1",
        "MILLPOND_ADMIN_SERVICE_HOST": "10.0.0.2",
        "MILLPOND_ADMIN_PORT_5001_TCP_PROTO": "tcp",
    }
    assert loaded(**links) == load(None, {})


def test_millpond_config_names_the_file_and_the_option_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("log: {level: debug}")
    second.write_text("log: {level: error}")
    environ = {"MILLPOND_CONFIG": str(first)}
    assert load(None, environ).log.level == "debug"
    assert load(second, environ).log.level == "error"


def test_a_password_comes_from_its_file_without_the_line_end(loaded: Load, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b" two words \r\n")
    settings = loaded(f"upstreams: {{ghcr.io: {{username: me, password_file: {file}}}}}")
    password = settings.upstreams["ghcr.io"].password
    assert password is not None
    assert password.get_secret_value() == " two words "
    assert "two words" not in repr(settings)


def test_a_password_comes_from_the_environment(loaded: Load) -> None:
    settings = loaded(MILLPOND_UPSTREAMS__GHCR_IO__USERNAME="me", MILLPOND_UPSTREAMS__GHCR_IO__PASSWORD="s3cret")
    password = settings.upstreams["ghcr.io"].password
    assert password is not None
    assert password.get_secret_value() == "s3cret"
    assert "s3cret" not in repr(settings)


def test_the_cache_directory_is_the_systems_when_it_can_be_used(tmp_path: Path) -> None:
    system = tmp_path / "lib" / "millpond"
    environ = {"HOME": "/home/me"}
    assert default_directory(environ, system) == Path("/home/me/.cache/millpond")
    system.parent.mkdir()
    assert default_directory(environ, system) == system
    system.mkdir()
    assert default_directory(environ, system) == system


def test_the_cache_directory_is_the_users_when_the_systems_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write everywhere, so that the system's answer is what is replaced here."""
    monkeypatch.setattr("proxy.settings.defaults.os.access", lambda *_: False)
    assert default_directory({"HOME": "/home/me"}, tmp_path) == Path("/home/me/.cache/millpond")


def test_the_users_cache_directory_follows_its_standard(tmp_path: Path) -> None:
    nowhere = tmp_path / "missing" / "millpond"
    assert default_directory({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, nowhere) == Path("/c/millpond")
    assert default_directory({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, nowhere) == Path("/h/.cache/millpond")


def test_the_cache_directory_that_is_named_wins(loaded: Load) -> None:
    assert loaded("cache: {directory: /a}").cache.directory == Path("/a")
    assert loaded("cache: {directory: /a}", MILLPOND_CACHE__DIRECTORY="/b").cache.directory == Path("/b")
    assert loaded("cache: {directory: c}").cache.directory == Path.cwd() / "c"


def test_a_merge_key_of_yaml_is_not_a_duplicate(loaded: Load) -> None:
    upstreams = loaded("upstreams:\n  a: &x {tag_ttl: 1m}\n  b: {<<: *x, tag_ttl: 2m}").upstreams
    assert (upstreams["a"].tag_ttl, upstreams["b"].tag_ttl) == (60, 120)


def test_the_environment_changes_one_entry_of_a_list_in_the_file(loaded: Load) -> None:
    targets = "[{name: a, account: '111122223333', region: us-east-1}, {name: b, account: '1', region: us-east-1}]"
    ecr = loaded(f"ecr: {{targets: {targets}}}", MILLPOND_ECR__TARGETS__1__ACCOUNT="444455556666").ecr
    assert [(target.name, target.account) for target in ecr.targets] == [("a", "111122223333"), ("b", "444455556666")]


def test_null_in_the_environment_takes_back_what_the_file_says(loaded: Load) -> None:
    target = "{name: a, account: '111122223333', region: us-east-1}"
    assert loaded(f"ecr: {{targets: [{target}]}}", MILLPOND_ECR="null").ecr.targets == ()
    upstream = loaded("upstreams: {ghcr.io: {ca_file: /no}}", MILLPOND_UPSTREAMS__GHCR_IO__CA_FILE="null").upstreams
    assert upstream["ghcr.io"].ca_file is None


def test_a_key_wins_over_the_same_key_of_a_section_in_json(loaded: Load) -> None:
    environ = {
        "MILLPOND_UPSTREAMS__LAN": '{"url": "http://10.0.0.1", "tag_ttl": 1}',
        "MILLPOND_UPSTREAMS__LAN__TAG_TTL": "2",
    }
    lan = loaded(**environ).upstreams["lan"]
    assert (lan.url, lan.tag_ttl) == ("http://10.0.0.1", 2)
