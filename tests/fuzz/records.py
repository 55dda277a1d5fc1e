"""What the program wrote itself, as a disk may give it back: nothing in it keeps the program from starting."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final

from proxy.cache.catalog import Catalog
from proxy.cache.index import Index
from proxy.cache.register import Register
from proxy.ecr.job import parse_job
from proxy.oci.digest import Digest
from proxy.oci.errors import MillpondError
from proxy.oci.names import Repository, Tag
from proxy.pull.sightings import MAX_SIGHTINGS, Sightings
from proxy.settings.credentials import read_passwords, read_tokens
from tests.fuzz.clients import SHA
from tests.fuzz.target import Target
from tests.unit import grammar


def job(data: bytes) -> bool:
    """K: a key, a line, a record of the queue for ECR: a job that is written as it was read, or none."""
    key, _, value = data.decode("utf-8", "replace").partition("\n")
    found = parse_job(key, _record(value))
    if found is None:
        return False
    assert all(math.isfinite(moment) for moment in (found.added, found.checked, found.not_before)), (
        "it would wait for ever"
    )
    written = json.loads(json.dumps(found.record()))
    again = parse_job(found.key, written)
    assert again is not None
    assert again.record() == written
    return True


def catalog(data: bytes) -> bool:
    """K S: records of the catalog, a key and a value in turn; what is kept makes sense, and can be forgotten."""
    made = Catalog(_forget)
    made.restore(_records(data))
    kept = made.records()
    again = Catalog(_forget)
    again.restore(json.loads(json.dumps(kept)))
    assert json.dumps(again.records(), sort_keys=True) == json.dumps(kept, sort_keys=True)
    for repository in made.repositories():
        assert grammar.is_name(repository.path)
        assert list(made.tags(repository)) == sorted(made.tags(repository))
    for key, record in kept.items():
        sizes = [size for _, size in record[1:]] if key[0] == "m" else record[:1] if key[0] == "h" else []
        assert all(0 <= size < 1 << 63 for size in sizes), "they go out as Content-Length"
        assert key[0] != "t" or math.isfinite(record[1]), "such a tag would never be confirmed again, or always"
    assert all(grammar.is_digest(digest) for digest in made.digests())
    made.keep_only(frozenset())
    assert not [key for key in made.records() if not key.startswith("t ")], "what is gone is forgotten"
    return bool(kept)


def index(data: bytes) -> bool:
    """A K: what the ledger says of files, in the same form: the bytes are their sum, and none is from the future."""
    made = Index(_forget, _forget, lambda: 1000.0)
    found = []
    for key, record in _records(data).items():
        try:
            found.append((Digest.parse(key), record))
        except MillpondError:
            continue
    made.restore(found)
    entries = [made.get(digest) for digest in made]
    assert made.bytes == sum(entry.size for entry in entries if entry) >= 0
    assert all(entry and entry.size >= 0 and entry.used <= 1000.0 for entry in entries), (
        "a wrong clock makes nothing new"
    )
    for digest in list(made):
        made.forget(digest)
    assert (made.bytes, len(made)) == (0, 0)
    return bool(entries)


_TAG: Final = Tag("latest")
_OTHER: Final = Digest("sha256:" + "c" * 64)


def sightings(data: bytes) -> bool:
    """K: what a tag was seen to point at: never from the future, nor without a date, so that its time comes."""
    register = Register(None)
    repository = Repository("docker.io", "library/x")
    register.held[f"{repository} {_TAG}"] = _record(data.decode("utf-8", "replace"))
    found = Sightings(register).see(repository, _TAG, _OTHER, now=1000.0, settled=lambda _: False, confirmed=True)
    assert found[-1].digest == _OTHER or any(one.digest == _OTHER for one in found)
    assert all(grammar.is_digest(one.digest) for one in found)
    assert all(one.first <= 1000.0 for one in found)
    assert len(found) <= MAX_SIGHTINGS
    return len(found) > 1


def accounts(data: bytes) -> bool:
    """S: htpasswd and tokens: users with bcrypt, or a message that names a line and shows nothing that is secret."""
    taken = False
    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        for read in (read_passwords, read_tokens):
            try:
                found = read(Path(file.name))
            except ValueError as error:
                message = str(error)
            else:
                taken, message = True, ""
                assert found
            # A message may say whose line it is, and noise may have the same in both places.
            halves = [line.partition(b":")[::2] for line in data.decode("utf-8", "replace").encode().split(b"\n")]
            names = b" ".join(name for name, _ in halves)
            secrets = (rest.strip() for _, rest in halves if rest.strip() not in names)
            assert not [one for one in secrets if len(one) > 15 and one.decode() in message]
    return taken


def _forget(*_: Any, **__: Any) -> None:
    pass


def _record(value: str) -> list[Any]:
    """As the ledger reads it: JSON, and a list."""
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []


def _records(data: bytes) -> dict[str, list[Any]]:
    lines = data.decode("utf-8", "replace").split("\n")
    return {key: _record(value) for key, value in zip(lines[::2], lines[1::2], strict=False)}


_REPOSITORY: Final = b"docker.io/library/x"
_JOB: Final = b'[1,"queued",1.5,0.0,0.0,0,0,"why","note",["latest"],["old"],["' + SHA + b'"]]'
_WORDS: Final = (
    *(
        b"\n",
        b" ",
        b"[",
        b"]",
        b",",
        b'"',
        b"{}",
        b"null",
        b"true",
        b"-1",
        b"0",
        b"1.5",
        b"1e999",
        b"-Infinity",
        b"NaN",
    ),
    *(
        b"9" * 400,
        b'""',
        b'"x"',
        _REPOSITORY,
        b"ghcr.io/a/b",
        SHA,
        b'"' + SHA + b'"',
        b"sha256:" + b"b" * 64,
        b"\\ud800",
    ),
)

RECORDS: Final = (
    Target(
        "job",
        job,
        (
            b"prod " + _REPOSITORY + b" " + SHA + b"\n" + _JOB,
            b"t ghcr.io/a " + SHA + b"\n" + _JOB.replace(b"queued", b"done"),
        ),
        (*_WORDS, b'"queued"', b'"done"', b'"rejected"', b'"pushing"', b"[1,", b"prod "),
    ),
    Target(
        "catalog",
        catalog,
        (
            b"t " + _REPOSITORY + b" latest\n[" + b'"' + SHA + b'",1.5]',
            b"m " + _REPOSITORY + b" " + SHA + b'\n["a/b",["sha256:' + b"b" * 64 + b'",5]]',
            b"h ghcr.io/a " + SHA + b"\n[5]",
        ),
        (*_WORDS, b"t ", b"m ", b"h ", b"latest", b"referrers/", b'["a/b",', b',["' + SHA + b'",5]'),
    ),
    Target(
        "index",
        index,
        (SHA + b"\n[5,1700000000000000000,900.5]", SHA + b"\n[0,0,2000.0]\nsha256:" + b"b" * 64 + b"\n[7,1,1.0]"),
        _WORDS,
    ),
    Target(
        "sightings",
        sightings,
        (b'[["' + SHA + b'",900.5,0]]', b'[["' + SHA + b'",2000.0,1],["sha256:' + b"b" * 64 + b'",1,0]]'),
        _WORDS,
    ),
    Target(
        "accounts",
        accounts,
        (
            b"# users\nme:$2y$05$" + b"a" * 53 + b"\nyou:$2b$10$" + b"b" * 53 + b"\n",
            b"me:" + b"0123456789abcdef" * 2 + b"\nyou: " + b"fedcba9876543210" * 2,
        ),
        (
            *(
                b"\n",
                b":",
                b"#",
                b" ",
                b"\t",
                b"\0",
                b"\r",
                b"$2y$",
                b"$apr1$",
                b"{SHA}",
                b"$31$",
                b"$04$",
                b"a" * 53,
                b"me",
            ),
            *(b"\xff", b"\xc2\x85", b"\xe2\x80\xa8", b"0123456789abcdef", b"a" * 300, b"$2y$05$" + b"a" * 54),
        ),
    ),
)
