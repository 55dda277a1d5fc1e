"""Simulate storms of nodes that pull one image. From the project's directory, with any Python from 3.11 on:

python3 -m deploy.simulate --nodes 1000 --instances 3          one storm, cold
python3 -m deploy.simulate --nodes 1000 --instances 3 --ecr    disks are empty, ECR has the image
python3 -m deploy.simulate --table                             the table of deploy/sizing.md
"""
# ruff: noqa: INP001  deploy/ holds files for people, and is no package

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Final

from deploy.storm import GBIT, GIB, LIMIT, SHAPE, Outcome, Storm, bound, quota_wait, simulate

# The rows of deploy/sizing.md: nodes of a set, instances, HAProxys, whether hash-balance-factor is on, how many sets.
_ROWS: Final = (
    (10, 1, 0, False, 1),
    (100, 1, 0, False, 1),
    (1_000, 3, 3, False, 1),
    (1_000, 3, 3, True, 1),
    (5_000, 8, 8, False, 1),
    (5_000, 8, 8, True, 1),
    (10_000, 16, 16, True, 1),
    (100_000, 64, 64, True, 1),
    (5_000, 8, 8, True, 20),
)
_DRAWS: Final = range(1, 8)  # the homes of eight layers are luck: such a row is the median of seven draws


_HEAD: Final = (
    "| nodes | instances | homes of a blob | at least | cold: median · last | warm: last | ECR: last | upstream sends "
    "| hit ratio | without Millpond |"
)


def table() -> str:
    """Markdown: one gigabyte for ever more nodes."""
    lines = [_HEAD, "|---|---|---|---|---|---|---|---|---|---|"]
    for nodes, instances, fronts, shared, sets in _ROWS:
        storm = Storm(nodes, instances, fronts=fronts, spread=instances if shared else 1)
        cold, warm, ecr = (_typical(one) for one in (storm, replace(storm, warm=True), replace(storm, ecr=True)))
        cells = (
            f"{nodes * sets:,}{f' in {sets} sets' if sets > 1 else ''}",
            f"{instances}{' each' if sets > 1 else ''}",
            "all" if shared else "1",
            f"{bound(replace(storm, warm=True)):,.0f} s",
            f"{cold.median:,.0f} · {cold.last:,.0f} s",
            f"{warm.last:,.0f} s",
            f"{ecr.last:,.0f} s",
            f"{cold.upstream * sets / GIB:,.0f} GiB",
            f"{cold.hit_ratio:.2%}",
            f"{nodes * sets:,} GiB, {quota_wait(nodes * sets, LIMIT) / 3600:,.0f} h",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _typical(storm: Storm) -> Outcome:
    """The draw of homes whose last node is the median of all draws."""
    if storm.spread >= storm.instances:
        return simulate(storm)  # every blob is everywhere: there is nothing to draw
    outcomes = sorted((simulate(replace(storm, seed=seed)) for seed in _DRAWS), key=lambda outcome: outcome.last)
    return outcomes[len(outcomes) // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate a storm of nodes that pull one image through Millpond.")
    parser.add_argument("--table", action="store_true", help="print the table of deploy/sizing.md, and end")
    parser.add_argument("--warm", action="store_true", help="the instances have the image")
    parser.add_argument("--ecr", action="store_true", help="their disks are empty, ECR has the image")
    for name, default, what in (
        ("nodes", 1000, "nodes that pull"),
        ("instances", 3, "Millponds"),
        ("haproxys", 3, "HAProxys before them; 0: none"),
        ("spread", 1, "instances that share a blob (hash-balance-factor)"),
        ("limit", LIMIT, "pulls that upstream allows in six hours"),
        ("ramp", 0, "seconds within which the nodes begin"),
        ("seed", 1, "of the homes that the layers get"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    for name, speed, what in (
        ("gib", 1.0, "the image's size in GiB"),
        ("gbit", 25.0, "network card of an instance, Gbit/s"),
        ("node-gbit", 10.0, "network card of a node"),
        ("upstream-gbit", 5.0, "the way to upstream, of all instances together"),
    ):
        parser.add_argument(f"--{name}", type=float, default=speed, help=f"{what} ({speed:g})")
    given = parser.parse_args()
    if given.table:
        print(table())  # noqa: T201  what it is for
        return
    storm = Storm(
        given.nodes,
        given.instances,
        layers=tuple(share * given.gib * GIB for share in SHAPE),
        warm=given.warm,
        ecr=given.ecr,
        spread=given.spread,
        fronts=given.haproxys,
        nic=given.gbit * GBIT,
        node_nic=given.node_gbit * GBIT,
        upstream_speed=given.upstream_gbit * GBIT,
        ramp=given.ramp,
        limit=given.limit,
        seed=given.seed,
    )
    outcome = simulate(storm)
    print(  # noqa: T201
        f"hit ratio       {outcome.hit_ratio:.3%}\n"
        f"served          {outcome.served / GIB:,.1f} GiB\n"
        f"from upstream   {outcome.upstream / GIB:,.2f} GiB, pulls counted: {outcome.pulls}\n"
        f"from ECR        {outcome.ecr / GIB:,.2f} GiB\n"
        f"median node     {outcome.median:,.1f} s\n"
        f"last node       {outcome.last:,.1f} s (at least {bound(storm):,.1f} s)\n"
        f"without it      {storm.nodes * storm.size / GIB:,.1f} GiB from upstream, pulls counted: {storm.nodes:,}, "
        f"the last after {quota_wait(storm.nodes, storm.limit) / 3600:,.0f} h"
    )


if __name__ == "__main__":
    main()
