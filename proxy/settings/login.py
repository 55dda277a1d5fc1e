"""An upstream that is logged in to with AWS credentials (`auth: ecr`): the company's own registries, and ECR Public."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from proxy.settings.base import Misfit

PUBLIC_HOST: Final = "public.ecr.aws"
PUBLIC_REGION: Final = "us-east-1"
"""ECR Public has one place to log in, wherever it is used from."""

# A private registry's host: IPv4 only, FIPS, dual-stack, and the two spellings of China.
_HOST: Final = re.compile(
    r"\d{12}\.dkr[.-]ecr(?:-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.com(?:\.cn)?|on\.aws|on\.amazonwebservices\.com\.cn)"
)


def is_public(url: str) -> bool:
    """Whether this is ECR Public, whose login is another service's."""
    return urlsplit(url).hostname == PUBLIC_HOST


def login_region(url: str, region: str | None) -> str:
    """Where to log in for the registry at `url`; `region` is what the configuration says.

    Raises:
        Misfit: it is not known, or not the one that the host names.
    """
    match = _HOST.fullmatch(urlsplit(url).hostname or "")
    by_host = PUBLIC_REGION if is_public(url) else match and match[1]
    if region is None and by_host is None:
        message = "the host of url does not name a region; write the one of the registry, such as us-east-1"
        raise Misfit(("region",), None, message)
    if region is not None and by_host is not None and region != by_host:
        raise Misfit(("region",), region, f"the login for {url} is in {by_host}; write that, or leave it out")
    return by_host or str(region)
