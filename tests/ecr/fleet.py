"""Millpond with two accounts behind it, dev and prod, and what has to stand in both."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from tests.support.ecr import EcrDouble, FakeRegistry
from tests.support.images import Manifest
from tests.support.millpond import Millpond
from tests.support.registry import Registry
from tests.support.waiting import wait_until

DEV: Final = ("111122223333", "us-east-1")
PROD: Final = ("444455556666", "eu-west-1")
ROLE: Final = f"arn:aws:iam::{PROD[0]}:role/millpond"

# Two accounts in a busy double, kills and throttling: longer than one look at a page, shorter than the test.
ARRIVAL: Final = 90.0


def targets(cloud: EcrDouble, **settings: Any) -> dict[str, Any]:
    """The `ecr` section with both accounts; prod by an assumed role. `settings` are for each target."""
    dev = {"name": "dev", "account": DEV[0], "region": DEV[1]}
    prod = {"name": "prod", "account": PROD[0], "region": PROD[1], "role_arn": ROLE}
    return {"targets": [{**target, "endpoint_url": cloud.url, **settings} for target in (dev, prod)]}


@dataclass
class Fleet:
    """Both accounts as the double has them, and the upstream."""

    cloud: EcrDouble
    upstream: Registry

    @property
    def registries(self) -> tuple[FakeRegistry, FakeRegistry]:
        return self.cloud.registry(*DEV), self.cloud.registry(*PROD)

    def lacks(self, image: Manifest, repository: str, tag: str | None = None) -> list[str]:
        """What is not there yet of the whole image, in either account; nothing: it is complete in both."""
        name, found = f"docker.io/{repository}", []
        for registry in self.registries:
            found += [f"{registry.account} {digest}" for digest in registry.missing(name, image.digest)]
            stored = registry.repositories.get(name)
            if tag and (stored is None or stored.tags.get(tag) != image.digest):
                found.append(f"{registry.account} {tag}")
            for part in image.walk():
                if (put := registry.image(name, part.digest)) and put.body != part.body:
                    found.append(f"{registry.account} {part.digest} has other bytes")
        return found

    def arrived(self, image: Manifest, repository: str, tag: str | None = None, deadline: float = ARRIVAL) -> None:
        """Return when the whole image, and the tag, stand in both accounts."""
        try:
            wait_until(lambda: not self.lacks(image, repository, tag), "the image stands in both accounts", deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}; lacking: {self.lacks(image, repository, tag)[:5]}") from None


def noted(millpond: Millpond, jobs: int) -> None:
    """Return when so many jobs are on the disk, where a kill leaves them: they get there a moment after the pull."""
    wait_until(lambda: _on_disk(millpond) == jobs, f"{jobs} jobs are on the disk")


def _on_disk(millpond: Millpond) -> int:
    try:
        with closing(sqlite3.connect(f"file:{millpond.cache}/queue/cache.db?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM Cache").fetchone()[0])
    except sqlite3.OperationalError:  # it is being made, or written
        return -1


def lose_the_disk(millpond: Millpond) -> None:
    """End it, and start it with an empty cache."""
    millpond.terminate()
    shutil.rmtree(millpond.cache)
    millpond.start()
