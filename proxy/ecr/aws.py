"""boto3's only home: one client of one service, called in threads, whose errors have our names."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, CredentialResolver, DeferredRefreshableCredentials
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    LoginError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError

from proxy.ecr.errors import EcrError, NoCredentials, Refused, Rejected, ServiceError, Throttled, Unreachable
from proxy.ecr.part import PartBody
from proxy.ecr.session import Account

# A TCP and TLS handshake within or between regions; also how long one piece of a body may take to leave.
CONNECT_TIMEOUT: Final = 10.0
# ECR checks a whole layer before it answers CompleteLayerUpload; AWS's own default.
READ_TIMEOUT: Final = 60.0
# A refusal by credentials that were made less than this ago (in seconds) is not for their age.
FRESH: Final = 60.0
# Characters of AWS's own words in a message; an AccessDenied names two ARNs.
MAX_WORDS: Final = 300

_THROTTLED: Final = frozenset({
    "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
    "TooManyRequestsException", "RequestLimitExceeded", "BandwidthLimitExceeded", "SlowDown",
    "ProvisionedThroughputExceededException", "PriorRequestNotComplete",
})  # fmt: skip
_PASSING: Final = frozenset({
    "ServerException", "InternalFailure", "InternalError", "InternalServerError", "InternalServerException",
    "ServiceUnavailable", "ServiceUnavailableException", "RequestTimeout", "RequestTimeoutException",
    "IDPCommunicationError",
})  # fmt: skip
_CREDENTIALS: Final = frozenset({
    "ExpiredToken", "ExpiredTokenException", "RequestExpired", "UnrecognizedClientException", "InvalidClientTokenId",
    "InvalidAccessKeyId", "AuthFailure", "InvalidSignatureException", "SignatureDoesNotMatch",
    "IncompleteSignature", "IncompleteSignatureException", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "RequestTimeTooSkewed", "InvalidIdentityToken",
})  # fmt: skip
_DENIED: Final = frozenset({
    "AccessDenied", "AccessDeniedException", "NotAuthorized", "UnauthorizedOperation", "OptInRequired",
    "RegionDisabledException",
})  # fmt: skip
_NOBODY: Final = (
    CredentialRetrievalError, LoginError, MetadataRetrievalError, NoAuthTokenError, NoCredentialsError,
    PartialCredentialsError, ProfileNotFound, SSOError, TokenRetrievalError,
)  # fmt: skip
# What AWS's services look like, read once for all clients: 60 ms for the first of each service, 7 ms for the others.
_MODELS: Final = create_loader()
_OWN: Final = "Millpond's own AWS identity"
_ASSUMING: Final = frozenset({"AssumeRole", "AssumeRoleWithWebIdentity"})


class Caller:
    """A boto3 client, made when it is first called and again when its credentials have gone bad. Everything blocks."""

    def __init__(self, account: Account, workers: int) -> None:
        """`workers` is how many calls there may be at once."""
        self._where = account.where
        self._identity = f"role {account.role_arn}" if account.role_arn else _OWN
        self._make = partial(_make, account, workers)
        self._lock = threading.Lock()
        self._made: Any = None
        self._made_at = 0.0

    def call(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one attempt at boto3's method `operation`.

        Credentials that have gone bad are looked up anew once, with a client anew: by then the environment, a
        profile's file or a service account's token may say something else.

        Raises:
            Passing, Refused, Rejected: whatever is no answer of this very operation.
            ServiceError: one that is.
        """
        made = None
        try:
            made, made_at = self._current()
            try:
                return getattr(made, operation)(**parameters)  # type: ignore[no-any-return]
            except ClientError as error:
                code = _code(error)
                if code not in _CREDENTIALS and not (code in _DENIED and time.monotonic() - made_at > FRESH):
                    raise
            self._drop(made)
            made, _ = self._current()
            return getattr(made, operation)(**parameters)  # type: ignore[no-any-return]
        except ClientError as error:
            raise self._answered(error) from None
        except (BotoCoreError, ResponseParserError, ValueError, OSError) as error:
            # What it says may have a secret in it, or the cause of one: `from None` keeps it out of tracebacks.
            raise self._unanswered(error, operation, made) from None

    def prepare(self) -> None:
        """Make the client now. What keeps it from being made, the first call will say."""
        with contextlib.suppress(BotoCoreError, ValueError, OSError):
            self._current()

    def close(self) -> None:
        """Close idle connections."""
        made = self._made  # without the lock: it is held while a client is being made
        if made is not None:
            made.close()

    def _current(self) -> tuple[Any, float]:
        with self._lock:
            if self._made is None:
                self._made, self._made_at = self._make(), time.monotonic()
            return self._made, self._made_at

    def _drop(self, made: Any) -> None:
        """Forget `made`, unless somebody else has done so and it has a successor."""
        with self._lock:
            if self._made is made:
                self._made = None

    def _answered(self, error: ClientError) -> EcrError:
        code, words = _code(error), _words(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        operation = error.operation_name
        said = f"{self._where} answered {operation} with {code}"
        if code in _THROTTLED or status == 429:
            return Throttled(f"{said}: too many calls")
        if code in _PASSING or status >= 500:
            return Unreachable(said)
        assuming = operation in _ASSUMING
        if code in _CREDENTIALS:
            # No words here: those about a signature repeat the request's headers, of which one is a secret.
            identity = _OWN if assuming else self._identity
            return Refused(f"{said}: the credentials of {identity} are not valid; renew them, or check the clock")
        if assuming:
            return Refused(
                f"{self._identity} cannot be assumed ({code}){words}; check that it exists, that its trust policy "
                f"names {_OWN}, and that sts:AssumeRole is allowed there (with EKS Pod Identity sts:TagSession as well)"
            )
        if code in _DENIED or status in (401, 403):
            return Refused(
                f"{said}{words}; allow it in the policy of {self._identity} (`millpond ecr plan` prints what is needed)"
            )
        fields = {name: value for name, value in error.response.items() if name not in ("Error", "ResponseMetadata")}
        return ServiceError(code, said + words, fields)

    def _unanswered(self, error: Exception, operation: str, made: Any) -> EcrError:
        kind = type(error).__name__
        if isinstance(error, HTTPClientError | BotoConnectionError | ResponseParserError):
            return Unreachable(
                f"{self._where} did not answer {operation} ({kind}); check the network, and the endpoint"
            )
        if isinstance(error, ParamValidationError):
            return Rejected(f"{operation} cannot be asked of {self._where}: {str(error)[:MAX_WORDS]}")
        self._drop(made)  # it has been made without credentials, or wrongly: the next call makes another one
        if isinstance(error, _NOBODY):
            return NoCredentials(
                f"no credentials for {self._where} as {self._identity} ({kind}); check the environment, the profile, "
                "or the role of this pod or machine"
            )
        return Refused(f"{self._where} cannot be called as configured ({kind}: {str(error)[:MAX_WORDS]})")


def _make(account: Account, workers: int) -> Any:
    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        max_pool_connections=workers,
        retries={"total_max_attempts": 1},  # `Api` does that, knowing the quotas and telling the metrics
    )
    session = _session(account.region)
    if account.role_arn is not None:
        session.register_component("credential_provider", _assumed(account.role_arn, account.region, config))
    client = boto3.Session(botocore_session=session).client(
        account.service, region_name=account.region, endpoint_url=account.endpoint_url, config=config
    )
    if account.service == "ecr":
        client.meta.events.register("before-parameter-build.ecr.UploadLayerPart", _set_part_aside)
        client.meta.events.register("before-call.ecr.UploadLayerPart", _put_part_in)
    return client


def _assumed(role_arn: str, region: str, config: Config) -> CredentialResolver:
    """A chain of one: the role, assumed by what the default chain finds, when that is first needed."""

    def assume() -> Any:
        source = _session(region)
        fetcher = AssumeRoleCredentialFetcher(
            partial(source.create_client, config=config),
            source.get_credentials() or _nobody(),
            role_arn,
            extra_args={"RoleSessionName": "millpond"},
        )
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")

    return CredentialResolver([SimpleNamespace(METHOD="assume-role", load=assume)])


def _session(region: str) -> Any:
    session = botocore.session.Session()
    session.register_component("data_loader", _MODELS)
    session.set_config_variable("region", region)  # for STS, which a service account's token is taken to
    return session


def _nobody() -> Any:
    raise NoCredentialsError


def _set_part_aside(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    context["part"], params["layerPartBlob"] = params["layerPartBlob"], b""


def _put_part_in(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    document = json.loads(params["body"])
    del document["layerPartBlob"]
    head = json.dumps(document).removesuffix("}") + ', "layerPartBlob": "'
    params["body"] = PartBody(head.encode(), context.pop("part"), b'"}')


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code") or "no code")[:MAX_WORDS]


def _words(error: ClientError) -> str:
    """What AWS says about it, made harmless, as `: words`."""
    message = str(error.response.get("Error", {}).get("Message") or "")
    text = "".join(character if character.isprintable() else " " for character in message)
    return f": {text[:MAX_WORDS]}" if text else ""
