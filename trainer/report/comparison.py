"""What is compared: runs, gathered by method, with the figures of the table.

Owns every number of the report; draws nothing. Held-out accuracy is measured on few problems, so a single measurement
is noisy, and the first that happens to cross a line would flatter every method: accuracies here are means of up to
`WINDOW` measurements in a row, for every method alike, the last of them being the latest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rollout_budget.outcomes import FloatArray
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.metrics import StepMetrics, read_config, read_metrics

WINDOW = 3
"""Measurements in a mean: enough to take half of the noise out, few enough to lag little."""

TOLERANCE = 1e-9
"""Rounding of averages: a reference reaches the mean of its own ends."""

Curve = tuple[FloatArray, FloatArray]
"""Places on an axis and values there, both of one length."""
Axis = Callable[[StepMetrics], float]
ROLLOUTS: Axis = lambda row: row.rollouts_total  # noqa: E731 - three names for three fields
TOKENS: Axis = lambda row: row.tokens_total  # noqa: E731
SECONDS: Axis = lambda row: row.elapsed_s  # noqa: E731


@dataclass(frozen=True, slots=True)
class Trained:
    """One run, finished or not."""

    directory: Path
    config: Config
    rows: tuple[StepMetrics, ...]

    @property
    def last(self) -> StepMetrics:
        """The latest step."""
        return self.rows[-1]

    def accuracy(self, axis: Axis) -> tuple[FloatArray, FloatArray]:
        """Return held-out accuracy, averaged over `WINDOW` measurements, against an axis; both shape (measurements,)."""
        measured = [(axis(row), row.held_out_accuracy) for row in self.rows if row.held_out_accuracy is not None]
        places = np.array([place for place, _ in measured], dtype=np.float64)
        values = np.array([value for _, value in measured], dtype=np.float64)
        windows = [values[max(0, index - WINDOW + 1) : index + 1].mean() for index in range(len(values))]
        return places, np.array(windows)

    @property
    def start(self) -> float:
        """Held-out accuracy before the first step; NaN where it was not measured."""
        _, values = self.accuracy(ROLLOUTS)
        return float(values[0]) if values.size else math.nan

    @property
    def end(self) -> float:
        """Mean of the last `WINDOW` measurements of held-out accuracy; NaN where there are none."""
        _, values = self.accuracy(ROLLOUTS)
        return float(values[-1]) if values.size else math.nan


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the seeds of a method."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Gather one value per seed."""
        return cls(mean=sum(values) / len(values), low=min(values), high=max(values))


@dataclass(frozen=True, slots=True)
class Method:
    """The runs of one method, one per seed."""

    name: str
    runs: tuple[Trained, ...]

    def spread(self, figure: Callable[[Trained], float]) -> Spread:
        """Return a figure over the method's runs."""
        return Spread.of([figure(run) for run in self.runs])

    def rollouts_to(self, accuracy: float) -> float:
        """Return the rollouts after which held-out accuracy, averaged over seeds, first reached a level; else infinity.

        Seeds are averaged first: the mean over seeds of a figure that some never reach would be no figure.
        """
        places, values = mean_curve([run.accuracy(ROLLOUTS) for run in self.runs])
        reached = np.flatnonzero(values >= accuracy - TOLERANCE)
        if not reached.size:
            return math.inf
        after = int(reached[0])
        if after == 0:
            return float(places[0])
        share = min(1.0, (accuracy - values[after - 1]) / (values[after] - values[after - 1]))
        return float(places[after - 1] + share * (places[after] - places[after - 1]))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Methods on the same task, and the one whose final accuracy the others are timed to."""

    methods: tuple[Method, ...]
    reference: Method

    @property
    def target(self) -> float:
        """The reference's final held-out accuracy, averaged over its seeds."""
        return self.reference.spread(lambda run: run.end).mean

    @property
    def notes(self) -> list[str]:
        """What a reader must know to judge the figures."""
        return [
            *_seed_notes(self.methods),
            *_measurement_notes(self.methods),
            f"Accuracies are held-out, each the mean of up to {WINDOW} measurements in a row, off the rollouts counted.",
            f"“To reach” is when a method first had the final accuracy of “{self.reference.name}”, {self.target:.3f}.",
            *_difference_notes(self.methods),
        ]


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Average curves at every place that one of them has, over the part of the axis that all of them cover."""
    if len(curves) == 1 or not all(across.size for across, _ in curves):
        return curves[0]
    low, high = max(across[0] for across, _ in curves), min(across[-1] for across, _ in curves)
    places = np.unique(np.concatenate([across for across, _ in curves]))
    places = places[(places >= low) & (places <= high)]
    return places, np.mean([np.interp(places, across, up) for across, up in curves], axis=0)


def compare(directories: Sequence[Path], *, reference: str = "") -> Comparison:
    """Read runs and gather them by method, in the order given.

    Args:
        directories: folders of runs, each with `metrics.jsonl` and `config.json`.
        reference: name of the reference method; by default the first with `group_mean` and `fixed` (GRPO), else the first.

    Raises:
        ConfigError: a folder is no run, or no method has the reference's name.
    """
    runs = [Trained(path, read_config(path), tuple(read_metrics(path))) for path in directories]
    if not runs:
        raise ConfigError("name at least one folder of a run")
    names = list(dict.fromkeys(run.config.method for run in runs))
    methods = tuple(Method(name, tuple(run for run in runs if run.config.method == name)) for name in names)
    if reference and reference not in names:
        raise ConfigError(f"no run's method is called {reference!r}; there are {', '.join(map(repr, names))}")
    chosen = next((item for item in methods if item.name == reference), None)
    return Comparison(methods=methods, reference=chosen or next(filter(_is_grpo, methods), methods[0]))


def _is_grpo(method: Method) -> bool:
    settings = method.runs[0].config.allocator
    return settings.estimator == "group_mean" and settings.stopping == "fixed"


def _seed_notes(methods: Sequence[Method]) -> list[str]:
    counts = {len(method.runs) for method in methods}
    if counts == {1}:
        return ["One seed per method: a single training each, so a difference of this size can be chance."]
    listed = ", ".join(f"{method.name}: {len(method.runs)}" for method in methods)
    return [f"Seeds: {listed}. Figures are means over seeds, with the lowest and the highest in brackets."]


def _measurement_notes(methods: Sequence[Method]) -> list[str]:
    """Say how noisy one measurement is, where every run measures alike."""
    config = methods[0].runs[0].config
    problems = min(config.evaluation.prompts, config.task.held_out_size or config.evaluation.prompts)
    noise = math.sqrt(0.25 / problems)
    drawn = f"{problems} held-out problems, {config.evaluation.samples} completion(s) each"
    return [f"One measurement takes up to {drawn}: a standard error of at most {noise:.3f}."]


def _difference_notes(methods: Sequence[Method]) -> list[str]:
    """Warn where runs differ in more than their method."""
    settings = [run.config for method in methods for run in method.runs]
    parts = {
        "task": {config.task.model_dump_json() for config in settings},
        "policy": {config.policy.model_dump_json() for config in settings},
        "learner": {config.learner.model_dump_json() for config in settings},
        "rollouts": {str((config.rollouts.per_step, config.rollouts.temperature)) for config in settings},
    }
    differing = [name for name, values in parts.items() if len(values) > 1]
    return [f"The runs differ in more than their method: settings of {', '.join(differing)}."] if differing else []
