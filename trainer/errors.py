"""Errors of the trainer.

TrainerError
├── ConfigError           the configuration cannot be used; says which field and what to write instead
├── ServerFailed          a server did not start, or ended
├── GenerationFailed      no rollouts after bounded retries; the group is given back, the step goes on
├── WeightUpdateFailed    a server could not be brought to a new version
├── Diverged              the gradients are no numbers any more
└── StorageFailed         the disk takes no more
"""

from __future__ import annotations


class TrainerError(Exception):
    """Root of the tree above."""


class ConfigError(TrainerError, ValueError):
    """The configuration cannot be used."""


class ServerFailed(TrainerError):
    """A server did not start, or ended."""


class GenerationFailed(TrainerError):
    """No rollouts after bounded retries."""


class WeightUpdateFailed(TrainerError):
    """A server could not be brought to a new version."""


class Diverged(TrainerError):
    """The gradients are no numbers any more."""


class StorageFailed(TrainerError):
    """The disk takes no more."""
