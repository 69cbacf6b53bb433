"""What the allocator would have done with the rollouts of a finished run, from the trainer's own log.

Owns reading logs, playing them through the same engine that the service runs, and the report. Nothing is installed in
the trainer, and no rollout is drawn: a replayed group sees the first outcomes of its logged group and no others.
"""

from rollout_budget.replay.formats import read_logs
from rollout_budget.replay.play import replay
from rollout_budget.replay.records import LoggedGroup, Point, Replay, Step

__all__ = ["LoggedGroup", "Point", "Replay", "Step", "read_logs", "replay"]
