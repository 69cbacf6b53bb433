"""Open-loop load: requests are sent when their schedule says, whatever became of the earlier ones.

Latency is counted from the scheduled moment, so a stall of the service is seen by every request that it delays, and a
generator that falls behind shows as latency instead of hiding it. `wire` sends, `schedule` says when, `report` counts,
`scenarios` puts an allocator under it; `python -m tests.load --help`.

    from tests.load import Shot, fire, poisson, summary
    shots = [Shot(at, "team-a", "GET", "/v1/budget", headers=key) for at in poisson(20.0, 10.0, seed=1)]
    print(summary(await fire("127.0.0.1", 8100, shots), seconds=10.0)["team-a"])
"""

from tests.load.report import Summary, summary
from tests.load.schedule import poisson, steady
from tests.load.wire import Result, Shot, fire

__all__ = ["Result", "Shot", "Summary", "fire", "poisson", "steady", "summary"]
