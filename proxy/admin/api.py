"""The operator's API: its table of contents. Each module below says what its routes take and answer.

status   how everything is, flights in progress    status.py
events   the same, as it happens                   stream.py
pulls    what was pulled, what it saved, and why   pulls.py
images   what is cached, and what goes next        images.py
changes  pin, unpin, purge, refresh, reload        changes.py
warm     bring images before they are pulled       warm.py
import   bring images that have been exported      intake.py
ecr      queue, retry, sync, verify                ecr.py
cache    verify                                    cache.py
openapi  all of this, for machines                 openapi.py, schemas.py
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from starlette.routing import Route

from proxy.admin.answers import Row
from proxy.admin.cache import cache_routes
from proxy.admin.changes import Reload, change_routes
from proxy.admin.ecr import EcrDesk, ecr_routes
from proxy.admin.images import image_routes
from proxy.admin.intake import intake_routes
from proxy.admin.openapi import openapi_routes
from proxy.admin.pulls import pull_routes
from proxy.admin.status import Status, status_routes
from proxy.admin.stream import Stream, stream_routes
from proxy.admin.warm import warm_routes
from proxy.cache.intake import Intake
from proxy.observe.history import History
from proxy.oci.names import Repository
from proxy.pull.explain import Explainer
from proxy.pull.images import Images
from proxy.pull.keeping import Keeping
from proxy.pull.warm import Warmer


@dataclass(frozen=True, slots=True)
class Api:
    """What the API speaks for. `ecr` is None without targets, `reload` where the configuration cannot be read again;
    `verify` is the disk cache's; `locate` knows what a repository's name means here."""

    status: Status
    stream: Stream
    history: History
    explainer: Explainer
    images: Images
    keeping: Keeping
    warmer: Warmer
    intake: Intake
    locate: Callable[[str], Repository]
    ecr: EcrDesk | None
    verify: Callable[[], AsyncGenerator[Row, None]]
    reload: Reload | None


def api_routes(api: Api, draining: Callable[[], bool]) -> list[Route]:
    """`draining` says whether the program is about to end: streams end then."""
    return [
        *status_routes(api.status),
        *stream_routes(api.stream),
        *pull_routes(api.history, api.explainer),
        *image_routes(api.images),
        *change_routes(api.keeping, api.reload),
        *warm_routes(api.warmer, draining),
        *intake_routes(api.intake, api.locate),
        *ecr_routes(api.ecr, draining),
        *cache_routes(api.verify, draining),
        *openapi_routes(),
    ]
