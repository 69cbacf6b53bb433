"""The trainer's configuration: typed, closed, and importable without torch.

Owns names, types, bounds and defaults of every setting, and the reading of a TOML file with overrides. Knows nothing of
what the settings drive. `trainer/defaults.toml` explains every field; a test holds the two together.
"""

from __future__ import annotations

from pathlib import Path

from trainer.config.base import Section
from trainer.config.learner import LearnerSection, LoraSection
from trainer.config.loading import load, parse, recipes, with_recipe
from trainer.config.rollouts import RolloutsSection, WeightsSection
from trainer.config.sections import (
    AllocatorSection,
    CheckpointSection,
    Config,
    DemoPolicySection,
    EvaluationSection,
    LoggingSection,
    PolicySection,
    PriorSection,
    RunSection,
)
from trainer.config.tasks import ArithmeticSection, JsonlSection, TaskSection

DEFAULTS_FILE = Path(__file__).parents[1] / "defaults.toml"
"""Every default with its reason; `python -m trainer config` prints it."""

__all__ = [
    "DEFAULTS_FILE",
    "AllocatorSection",
    "ArithmeticSection",
    "CheckpointSection",
    "Config",
    "DemoPolicySection",
    "EvaluationSection",
    "JsonlSection",
    "LearnerSection",
    "LoggingSection",
    "LoraSection",
    "PolicySection",
    "PriorSection",
    "RolloutsSection",
    "RunSection",
    "Section",
    "TaskSection",
    "WeightsSection",
    "load",
    "parse",
    "recipes",
    "with_recipe",
]
