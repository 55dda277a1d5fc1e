"""python -m tests.growth: what a large cache costs, beside a small one."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.growth import measure
from tests.growth.directory import grow

_MIB = 1 << 20
_PROBE = bytes(64 * 1024)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.growth", description="A large cache beside a small one.")
    parser.add_argument("--blobs", type=int, default=200_000, help="in the large cache (default 200000)")
    parser.add_argument("--directory", type=Path, help="for the caches, 2 GiB; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        for blobs in (10, options.blobs):
            _show(Path(place) / str(blobs), blobs)


def _show(directory: Path, blobs: int) -> None:
    cache = directory / "cache"
    probe = grow(cache, blobs, _PROBE)
    with measure.running(directory, cache) as (millpond, ready):
        resident = millpond.rss()
        measure.swept(millpond)
        p99, longest = measure.lag(millpond)
        blob, manifest = measure.blob_hits(millpond, probe), measure.manifest_hits(millpond)
        print(f"{blobs} blobs")
        print(f"  ready                {ready:8.2f} s")
        print(f"  resident, then peak  {resident / _MIB:8.0f} MiB  {millpond.peak_rss() / _MIB:.0f} MiB")
        print(f"  lag until swept      {p99 * 1e3:8.1f} ms p99 at most, {longest * 1e3:.1f} ms at worst")
        print(f"  blob hit, 64 KiB     {blob.p50 * 1e3:8.2f} ms p50, {blob.p99 * 1e3:.2f} ms p99")
        print(f"  manifest hit by tag  {manifest.p50 * 1e3:8.2f} ms p50, {manifest.p99 * 1e3:.2f} ms p99")
    print(f"  evictions            {measure.evictions_a_second(cache):8.0f} /s")


if __name__ == "__main__":
    main()
