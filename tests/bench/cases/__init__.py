"""What is measured. A case is a function from a stage to measurements; peers take turns, round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from tests.bench.cases.cold import cold_16, cold_alone, held, limited
from tests.bench.cases.ecr import ecr
from tests.bench.cases.manifests import manifests
from tests.bench.cases.storms import lag, storms
from tests.bench.cases.traced import traced
from tests.bench.cases.warm import alone, tls, warm
from tests.bench.cases.watched import watched
from tests.bench.measure import Effort, Measurement
from tests.bench.stage import Stage

Case = Callable[[Stage, Effort], Iterator[Measurement]]

CASES: Final[dict[str, Case]] = {
    "warm": warm,
    "tls": tls,
    "cold": cold_alone,
    "cold16": cold_16,
    "held": held,
    "limited": limited,
    "manifests": manifests,
    "storm": storms,
    "lag": lag,
    "ecr": ecr,
    "watched": watched,
}
EXTRA: Final[dict[str, Case]] = {"alone": alone, "traced": traced}
"""Only when asked for by name."""
