"""Bodies of requests with what each is, as the routes take them."""

from __future__ import annotations

from services.allocator.endpoints.examples import access, runs
from services.kit.examples import bodies

RUN = bodies(
    ("Verifiable answers, at most a million rollouts; everything else is left to the defaults", runs.RUN),
    ("Outcomes of -1 and +1, and a budget spread over 200 training steps", runs.SIGNED),
)
PATCH = bodies(("A price set by hand, and another limit in place of all those before", runs.PATCH))
PLAN = bodies(("Eight rollouts for the best of three prompts; the third brings a prior of its own", runs.PLAN))
OPEN = bodies(("Two prompts; the second brings a prior of its own", runs.OPEN))
OBSERVE = bodies(("All outcomes of one group so far", runs.OBSERVE))
BASELINES = bodies(("The figures of one group once more", runs.BASELINES))
CLOSE = bodies(("One group, with what its five rollouts cost", runs.CLOSE))
DECIDE = bodies(("Two groups that share at most eight further rollouts", runs.DECIDE))
TEAM = bodies(("A team with a limit for each day", access.NEW_TEAM))
RENAME = bodies(("Another name for people", access.RENAME))
LIMITS = bodies(("Rollouts and GPU-seconds, with warnings from nine tenths on", access.LIMITS))
KEY = bodies(("A trainer's key for thirty days", access.NEW_KEY))
ROTATION = bodies(("Both keys work for a day", access.ROTATION))
