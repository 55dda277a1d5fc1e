"""Images as people name them, read by the rules of the registry port."""

from __future__ import annotations

import pytest

from proxy.edge.routes import Namespace
from proxy.oci.errors import DigestInvalid, MillpondError, NameInvalid, NameUnknown, TagInvalid
from proxy.oci.names import Image, Repository, parse_image

NAMESPACE = Namespace(
    {"docker.io": "docker.io", "index.docker.io": "docker.io", "ghcr.io": "ghcr.io", "lan:5000": "lan:5000"},
    "docker.io",
)
DIGEST = "sha256:" + "a" * 64


def image(text: str) -> Image:
    return parse_image(text, lambda name: NAMESPACE.locate(name, None, None))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1.27", "docker.io/library/nginx:1.27"),
        (" nginx\n", "docker.io/library/nginx:latest"),
        ("org/app", "docker.io/org/app:latest"),
        ("docker.io/nginx:1.27", "docker.io/library/nginx:1.27"),
        ("Index.Docker.io/library/nginx", "docker.io/library/nginx:latest"),
        (f"ghcr.io/org/app@{DIGEST}", f"ghcr.io/org/app@{DIGEST}"),
        (f"ghcr.io/org/app:v1@{DIGEST}", f"ghcr.io/org/app:v1@{DIGEST}"),
        ("lan:5000/app", "lan:5000/app:latest"),
        ("lan:5000/org/app:v1", "lan:5000/org/app:v1"),
    ],
)
def test_an_image_has_one_whole_name(text: str, whole: str) -> None:
    assert str(image(text)) == whole
    assert image(whole) == image(text)


def test_a_digest_says_more_than_a_tag() -> None:
    both = image(f"nginx:1.27@{DIGEST}")
    assert both.repository == Repository("docker.io", "library/nginx")
    assert (both.tag, both.digest, both.reference) == ("1.27", DIGEST, DIGEST)
    assert image("nginx:1.27").reference == "1.27"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", NameInvalid),
        ("Nginx", NameInvalid),
        ("a b", NameInvalid),
        ("docker://nginx", NameUnknown),
        ("nginx:", TagInvalid),
        ("nginx:-", TagInvalid),
        ("nginx@", DigestInvalid),
        ("nginx@sha256:abc", DigestInvalid),
        ("nowhere.test/app", NameUnknown),
        ("nowhere:5000/app", NameUnknown),
    ],
)
def test_what_names_no_image_is_refused(text: str, error: type[MillpondError]) -> None:
    with pytest.raises(error):
        image(text)
