"""Every key of the configuration, with its default. Reasons for users are in config/millpond.yaml; a test compares."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from proxy.settings.access import Access, rules_fit
from proxy.settings.base import NESTING, Misfit, Section, WholeNumber, as_list
from proxy.settings.defaults import default_directory, with_built_in
from proxy.settings.ecr import Ecr, Region, Role
from proxy.settings.login import is_public, login_region
from proxy.settings.policy import Policy, policy_fits
from proxy.settings.problems import explain
from proxy.settings.secret import take_credential, take_from_file
from proxy.settings.sources import CONFIG_VARIABLE, PREFIX, ConfigFile, Environment, origins
from proxy.settings.targets import targets_fit
from proxy.settings.values import (
    Listen,
    Size,
    audit_stream,
    base_url,
    ca_bundle,
    duration,
    host,
    path,
    positive_duration,
    positive_size,
    readable_file,
)

Deadline = Annotated[float, PlainValidator(positive_duration)]
Seconds = Annotated[float, PlainValidator(duration)]
Address = Annotated[Listen, PlainValidator(Listen.parse)]
Hosts = Annotated[tuple[Annotated[str, PlainValidator(host)], ...], BeforeValidator(as_list)]
ReadableFile = Annotated[Path, PlainValidator(readable_file)]
CaBundle = Annotated[Path, PlainValidator(ca_bundle)]

MINUTE: Final = 60.0
DAY: Final = 86400.0
MAX_CONNECTIONS_PER_BLOB: Final = 32  # more than this looks like abuse to a registry, and no longer adds speed

# The first segment of every request of the registry API: an upstream of this name could not be addressed.
RESERVED: Final = frozenset({"v2"})

# What a header can carry, and nobody guesses.
_TOKEN: Final = re.compile(r"[\x21-\x7e]{16,4096}")


class Tls(Section):
    """The certificate of the registry port. `client_ca_file` asks clients for a certificate of that authority."""

    cert_file: ReadableFile
    key_file: ReadableFile
    client_ca_file: CaBundle | None = None

    @model_validator(mode="after")
    def _pair(self) -> Self:
        try:
            # The empty password makes an encrypted key an error; without it OpenSSL would ask on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert_file, self.key_file, password="")
        except (ssl.SSLError, OSError) as error:
            reason = getattr(error, "reason", None) or "not PEM"
            message = (
                f"this and key_file do not make a usable pair ({reason}); "
                "write a PEM chain, leaf first, and its private key without a passphrase"
            )
            raise Misfit(("cert_file",), str(self.cert_file), message) from None
        return self


class Registry(Section):
    """The port that clients pull from."""

    listen: Address = Listen("0.0.0.0", 5000)  # noqa: S104 - a cache for other machines
    tls: Tls | None = None
    header_timeout: Deadline = 10.0  # a request's headers are one packet; whoever dribbles them is let go
    write_timeout: Deadline = MINUTE  # without a single byte taken by the client
    keep_alive: Deadline = 150.0  # above the idle time of clients (BuildKit 120 s), so that they close first
    grace_period: Seconds = 25.0  # below the 30 s that Kubernetes waits before it kills
    max_connections: Annotated[WholeNumber, Field(ge=1)] | None = None  # as many as files may be open for, up to 10000
    max_connections_per_address: Annotated[WholeNumber, Field(ge=1)] | None = None  # nodes may share one address


class Admin(Section):
    """The port of the operator: health, metrics, API. Local by default: whoever reaches it may read."""

    listen: Address = Listen("127.0.0.1", 5001)
    token: SecretStr | None = None  # from the environment, or what token_file held when it was loaded
    token_file: ReadableFile | None = None

    @model_validator(mode="after")
    def _token(self) -> Self:
        take_from_file(self, "token")
        if self.token is not None and not _TOKEN.fullmatch(self.token.get_secret_value()):
            key = "token" if self.token_file is None else "token_file"
            shown = self.token_file and str(self.token_file)
            hint = "16 to 4096 visible ASCII characters; `openssl rand -hex 32` makes a good one"
            raise Misfit((key,), shown, f"this is no token; write {hint}")
        return self


class Cache(Section):
    """The disk cache."""

    directory: Annotated[Path, PlainValidator(lambda value: default_directory() if value is None else path(value))] = (
        Field(default_factory=default_directory)
    )
    max_size: Annotated[Size, PlainValidator(positive_size)] = Size.parse("50GiB")
    min_free: Annotated[Size, PlainValidator(Size.parse)] = Size.parse("2GiB")
    scrub_rate: Annotated[Size, PlainValidator(Size.parse)] = Size.parse("8MiB")  # a second: a terabyte in 36 hours

    @model_validator(mode="after")
    def _scrub_rate_is_bytes(self) -> Self:
        if self.scrub_rate.percent is not None:
            message = 'a share of the disk is no rate; write bytes per second, such as "8MiB", or 0 for no scrub'
            raise Misfit(("scrub_rate",), str(self.scrub_rate), message)
        return self


class Log(Section):
    """`auto` is console on a terminal, JSON elsewhere."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"
    audit: Annotated[Path | Literal["stdout"], PlainValidator(audit_stream)] | None = None


class Traces(Section):
    """Spans by OTLP, for the extra millpond[otel]."""

    endpoint: Annotated[str, PlainValidator(base_url)] | None = None
    ratio: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _installed(self) -> Self:
        if self.endpoint is not None and not (find_spec("opentelemetry") and find_spec("opentelemetry.sdk")):
            message = "OpenTelemetry is not installed here; install millpond[otel], or leave this out"
            raise Misfit(("endpoint",), self.endpoint, message)
        return self


class Upstream(Section):
    """One remote registry; its name is the key it stands under."""

    url: Annotated[str, PlainValidator(base_url)]
    aliases: Hosts = ()
    token_hosts: Hosts = ()
    ca_file: CaBundle | None = None
    username: Annotated[str, Field(min_length=1)] | None = None
    password: SecretStr | None = None  # from the environment, or what password_file held when it was loaded
    password_file: ReadableFile | None = None
    auth: Literal["ecr"] | None = None
    region: Region | None = None  # with auth: ecr it is known once this is loaded
    role_arn: Role | None = None
    endpoint_url: Annotated[str, PlainValidator(base_url)] | None = None
    connect_timeout: Deadline = 10.0
    read_timeout: Deadline = 30.0
    tag_ttl: Seconds = 5 * MINUTE
    stale_for: Seconds = 7 * DAY
    on_deleted: Literal["not_found", "serve"] = "not_found"
    connections_per_blob: Annotated[WholeNumber, Field(ge=1, le=MAX_CONNECTIONS_PER_BLOB)] = 8

    @model_validator(mode="after")
    def _credential(self) -> Self:
        take_credential(self)
        return self

    @model_validator(mode="after")
    def _login(self) -> Self:
        if self.auth is None:
            for key in ("region", "role_arn", "endpoint_url"):
                if (value := getattr(self, key)) is not None:
                    raise Misfit((key,), value, "this has a meaning with auth: ecr only; add that, or leave this out")
        elif self.username is not None:
            raise Misfit(("username",), self.username, "auth: ecr logs in by itself; keep one of them")
        else:
            object.__setattr__(self, "region", login_region(self.url, self.region))
        return self

    @property
    def is_ecr_public(self) -> bool:
        """Whether `auth: ecr` logs in to ECR Public, which is another service than ECR."""
        return is_public(self.url)


class Settings(BaseSettings, Section):
    """The whole configuration. `upstreams` holds the built-in ones too, unless they were removed with null."""

    # A file's keys are taken as they are written; `Environment` decodes.
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=NESTING,
        env_parse_none_str="null",
        case_sensitive=True,
        enable_decoding=False,
    )

    registry: Registry = Field(default_factory=Registry)
    access: Access = Field(default_factory=Access)
    admin: Admin = Field(default_factory=Admin)
    cache: Cache = Field(default_factory=Cache)
    default_upstream: str = "docker.io"
    upstreams: Annotated[Mapping[Annotated[str, PlainValidator(host)], Upstream], BeforeValidator(with_built_in)] = (
        Field(default_factory=dict)
    )
    ecr: Ecr = Field(default_factory=Ecr)
    policy: Policy = Field(default_factory=Policy)
    log: Log = Field(default_factory=Log)
    traces: Traces = Field(default_factory=Traces)

    def __init__(self, config_file: Path | None, environ: Mapping[str, str]) -> None:
        # As text: the path "." would mean no file to pydantic-settings.
        super().__init__(config_file=config_file and str(config_file), environ=environ)

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: Any, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = ConfigFile(settings_cls, init_settings.init_kwargs["config_file"])
        return Environment(settings_cls, init_settings.init_kwargs["environ"], file.yaml_data.get("upstreams")), file

    @model_validator(mode="after")
    def _whole(self) -> Self:
        object.__setattr__(self, "upstreams", MappingProxyType(dict(self.upstreams)))
        self._names_are_unique()
        targets_fit(self.ecr.targets, {name: upstream.auth for name, upstream in self.upstreams.items()})
        policy_fits(self.policy, self.names, [target.name for target in self.ecr.targets])
        certificates = self.registry.tls is not None and self.registry.tls.client_ca_file is not None
        rules_fit(self.access, self.names, certificates=certificates)
        if self.default_upstream not in self.upstreams:
            known = ", ".join(self.upstreams) or "none is left"
            raise Misfit(("default_upstream",), self.default_upstream, f"there is no such upstream; one of: {known}")
        if self.registry.listen == self.admin.listen and self.admin.listen.port:
            raise Misfit(
                ("admin", "listen"), str(self.admin.listen), "this is registry.listen as well; write another port"
            )
        return self

    @property
    def names(self) -> dict[str, str]:
        """Everything that an upstream may be called, names and aliases, and the upstream's name that it means."""
        aliases = {alias: name for name, upstream in self.upstreams.items() for alias in upstream.aliases}
        return {name: name for name in self.upstreams} | aliases

    def _names_are_unique(self) -> None:
        owners = dict.fromkeys(RESERVED, "the registry API itself")
        for name in self.upstreams:
            if name in RESERVED:
                raise Misfit(("upstreams", name), name, "every path begins with this name; choose another")
            owners[name] = name
        for name, upstream in self.upstreams.items():
            for alias in upstream.aliases:
                if alias in owners:
                    message = f"this name already means {owners[alias]}; every name and alias must be unique"
                    raise Misfit(("upstreams", name, "aliases"), alias, message)
                owners[alias] = name


def load(config_file: Path | None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of `config_file` (else of the file that MILLPOND_CONFIG names, else none) under the variables
    of `environ`, by default the process's own.

    Raises:
        SettingsError: the file or the environment cannot be used; the message lists every problem found.
    """
    environ = os.environ if environ is None else environ
    if config_file is None and environ.get(CONFIG_VARIABLE):
        config_file = Path(environ[CONFIG_VARIABLE])
    try:
        return Settings(config_file, environ)
    except ValidationError as error:
        raise explain(error, Settings, origins(environ)) from None
