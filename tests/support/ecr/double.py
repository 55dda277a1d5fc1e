"""One AWS cloud on two ports of 127.0.0.1: the APIs at one, presigned downloads at the other."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self
from xml.sax.saxutils import escape

from tests.support.ecr import front
from tests.support.ecr.desk import MAX_PART, MIN_PART, Desk, Operation
from tests.support.ecr.downloads import Downloads
from tests.support.ecr.errors import AwsError, BrokenOffError
from tests.support.ecr.faults import Call, Faults
from tests.support.ecr.principals import Credentials, Principals
from tests.support.ecr.registry import FakeRegistry, FakeRepository
from tests.support.ecr.server import Answer, Request, Server
from tests.support.ports import free_port

ACCOUNT: Final = "111122223333"
REGION: Final = "us-east-1"
PASSWORD_SECONDS: Final = 12 * 3600.0
"""How long a registry's password is valid."""


class EcrDouble(Faults):
    """ECR of every account and region, STS, and ECR Public's token.

    The account of a call is that of its keys, unless it names a registryId; its region is that of its signature.
    `account` is whose keys `environment` holds. `part_size` and `min_part` are in bytes: the most and the least that
    a part may have, so that tests can upload many parts of few bytes. `password` (None: another one each time),
    `password_seconds` and `role_seconds` (None: as asked for) are what is granted; they may be changed at any time.
    """

    def __init__(self, account: str = ACCOUNT, *, part_size: int = MAX_PART, min_part: int | None = None) -> None:
        super().__init__()
        self.account = account
        self.part_size = part_size
        self.min_part = min(MIN_PART, part_size) if min_part is None else min_part
        self.password: str | None = None
        self.password_seconds = PASSWORD_SECONDS
        self.role_seconds: float | None = None
        self.calls: list[Call] = []
        self.violations: list[str] = []
        self.passwords: list[str] = []
        self.principals = Principals()
        self.downloads = Downloads(self.violate)
        self._registries: dict[tuple[str, str], FakeRegistry] = {}
        self._refused_media_types: set[str] = set()
        self._corrupt_images: set[str] = set()
        self._state = threading.RLock()
        self._api = Server(free_port(), lambda request: front.answer(self, request), self.violate)
        self._layers = Server(free_port(), self._download, self.violate)

    @property
    def url(self) -> str:
        return self._api.url

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use this cloud and nothing else, as the user of `account`."""
        keys = self.principals.user(self.account)
        return {
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ENDPOINT_URL_ECR": self.url,
            "AWS_ENDPOINT_URL_ECR_PUBLIC": self.url,
            "AWS_ENDPOINT_URL_STS": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def credentials(self, account: str = ACCOUNT) -> Credentials:
        """The lasting keys of that account's user."""
        return self.principals.user(account)

    def registry(self, account: str = ACCOUNT, region: str = REGION) -> FakeRegistry:
        with self._state:
            return self._registries.setdefault((account, region), FakeRegistry(account, region))

    def count(self, operation: str, **match: Any) -> int:
        """How many calls of `operation` there were whose fields, or parameters, are these."""
        return len([call for call in list(self.calls) if call.operation == operation and call.matches(**match)])

    def start(self) -> Self:
        self._api.start()
        self._layers.start()
        return self

    def stop(self) -> None:
        """From outside, the cloud has gone; what it holds stays, for another `start`."""
        with self._lock:
            for stall in self._stalls:
                stall.release()
        self._api.stop()
        self._layers.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None:
            assert not self.violations, self.violations

    def refuse_media_type(self, media_type: str) -> None:
        """PutImage takes no manifest of this type, nor one that names it."""
        self._refused_media_types.add(media_type)

    def corrupt_layer(self, digest: str) -> None:
        """Its downloads have the right length, and one wrong bit."""
        self.downloads.corrupt_layer(digest)

    def cut_layer(self, digest: str, at: int, times: int = 1) -> None:
        """The next downloads of it break after `at` bytes."""
        self.downloads.cut_layer(digest, at, times)

    def corrupt_image(self, digest: str) -> None:
        """BatchGetImage gives another manifest than the digest says."""
        self._corrupt_images.add(digest)

    def lose_upload(self, upload_id: str | None = None) -> None:
        """This upload has expired; None: all that are open."""
        with self._state:
            for registry in self._registries.values():
                for repository in registry.repositories.values():
                    for known in [upload_id] if upload_id else list(repository.uploads):
                        repository.uploads.pop(known, None)

    def expire_credentials(self) -> None:
        """All keys of assumed roles that were given so far."""
        self.principals.expire()

    def expire_urls(self) -> None:
        """All presigned URLs that were given so far."""
        self.downloads.expire_urls()

    def violate(self, what: str) -> None:
        """Note what real AWS would never accept silently."""
        self.violations.append(what)

    def record(self, call: Call, work: Callable[[], Answer], refuse: Callable[[AwsError], Answer]) -> Answer | None:
        """Have a call done, and note what became of it. None: the connection breaks."""
        self.calls.append(call)
        outcome = "ok"
        try:
            answer: Answer | None = work()
        except BrokenOffError:
            answer, outcome = None, "broken"
        except AwsError as error:
            answer, outcome = refuse(error), error.code
        if call.break_after:
            answer, outcome = None, "broken"
        call.ended = time.monotonic()
        call.outcome = outcome
        return answer

    def carry_out(self, call: Call, operation: Operation, parameters: dict[str, Any]) -> dict[str, Any]:
        """Do what is left once a call is known to be signed, permitted and well-formed.

        Raises:
            AwsError
        """
        desk = Desk(
            call=call,
            parameters=parameters,
            registry=self.registry(call.account, call.region),
            part_size=self.part_size,
            min_part=self.min_part,
            refused_media_types=frozenset(self._refused_media_types),
            corrupt_images=frozenset(self._corrupt_images),
            sign=self._sign,
            grant_password=self._grant_password,
            violate=self.violate,
            permit=lambda other: self.permit(call, other),
        )
        with self._state:
            return operation(desk)

    def _sign(self, repository: FakeRepository, digest: str) -> str:
        return self._layers.url + self.downloads.sign(repository, digest)

    def _grant_password(self) -> tuple[str, float]:
        self.passwords.append(self.password or secrets.token_urlsafe(40))
        return self.passwords[-1], time.time() + self.password_seconds

    def _download(self, request: Request) -> Answer | None:
        call = self.downloads.describe(request)

        def work() -> Answer:
            self.strike(call)
            return self._held(call, self.downloads.answer(request))

        return self.record(call, work, _s3_refusal)

    def _held(self, call: Call, answer: Answer) -> Answer:
        """Downloads stall in their bodies, where a client has the headers already."""
        for stall in self.stalls_of(call):
            return Answer(answer.status, answer.body, answer.headers, answer.cut_at, stall.at, stall.wait)
        return answer


def _s3_refusal(error: AwsError) -> Answer:
    text = f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'
    return Answer(error.status, body.encode(), {"Content-Type": "application/xml"})
