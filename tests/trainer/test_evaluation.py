"""Evaluation: both figures, their error over problems, levels, counts, and what a server that is away leaves out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from trainer.config import parse
from trainer.errors import ConfigError, GenerationFailed
from trainer.evaluation import Evaluator, Measurement
from trainer.rewards import ExactVerifier
from trainer.types import Problem, Sample, Sampling

PROBLEMS = [Problem("easy", "e", "1", 1), Problem("hard", "h", "2", 2), Problem("odd", "o", "3", 2)]


class Scripted:
    """Answers by prompt: samples in turn, and a greedy text; remembers what it was asked. No prompt, no answer."""

    def __init__(self, **answers: tuple[Sequence[str], str]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, int, float, int, int]] = []

    async def generate(
        self, prompt_ids: Sequence[int], *, count: int, sampling: Sampling, version: int, seed: int
    ) -> list[Sample]:
        prompt = bytes(prompt_ids).decode()
        self.asked.append((prompt, count, sampling.temperature, version, seed))
        if prompt not in self.answers:
            raise GenerationFailed("no server")
        drawn, likeliest = self.answers[prompt]
        texts = [likeliest] * count if sampling.temperature == 0 else list(drawn)[:count]
        return [Sample((1,), (0.0,), text, "stop", version) for text in texts]

    async def close(self) -> None:
        """Nothing is held."""


ANSWERS = Scripted(e=(["1", "1", "1", "1"], "1"), h=(["2", "0", "0", "0"], "0"), o=(["3", "3", "0", "0"], "3"))


def evaluator(generator: Scripted, samples: int, *, greedy: bool = False, temperature: float = 1.0) -> Evaluator:
    return Evaluator(
        problems=PROBLEMS,
        generator=generator,
        verifier=ExactVerifier(),
        encode=lambda prompt: tuple(prompt.encode()),
        sampling=Sampling(4, temperature),
        samples=samples,
        seed=5,
        greedy=greedy,
    )


async def test_mean_at_n_and_greedy_with_their_error_and_levels() -> None:
    """Problem means are 1, 1/4 and 1/2: their mean is 7/12 and its standard error that of three values."""
    measured = await evaluator(Scripted(**ANSWERS.answers), 4, greedy=True).measure(7)
    assert measured.accuracy == pytest.approx(7 / 12)
    assert measured.greedy == pytest.approx(2 / 3)
    spread = sum((value - 7 / 12) ** 2 for value in (1, 1 / 4, 1 / 2)) / 2
    assert measured.standard_error == pytest.approx(math.sqrt(spread / 3))
    assert measured.levels == {1: 1.0, 2: pytest.approx(3 / 8)}
    assert (measured.rollouts, measured.failed) == (15, 0)


async def test_without_samples_the_greedy_figure_has_the_error_and_the_levels() -> None:
    generator = Scripted(**ANSWERS.answers)
    measured = await evaluator(generator, 0, greedy=True).measure(0)
    assert measured.accuracy is None
    assert measured.greedy == pytest.approx(2 / 3)
    assert measured.rollouts == 3
    assert measured.standard_error == pytest.approx(1 / 3)
    assert measured.levels == {1: 1.0, 2: 0.5}
    assert {temperature for _, _, temperature, _, _ in generator.asked} == {0.0}


async def test_at_temperature_0_one_completion_serves_both() -> None:
    """Four equal completions would cost four times as much and tell nothing more."""
    generator = Scripted(**ANSWERS.answers)
    measured = await evaluator(generator, 4, greedy=True, temperature=0.0).measure(0)
    assert measured.accuracy == measured.greedy == pytest.approx(2 / 3)
    assert measured.rollouts == 3 == len(generator.asked)


async def test_problems_that_no_server_answers_are_left_out_and_counted() -> None:
    """Of both figures, so that they are of the same problems."""
    measured = await evaluator(Scripted(e=ANSWERS.answers["e"]), 4, greedy=True).measure(0)
    assert measured == Measurement(1.0, 5, 2, greedy=1.0, standard_error=None, levels={1: 1.0})
    nothing = await evaluator(Scripted(), 4).measure(0)
    assert nothing == Measurement(None, 0, 3)


async def test_seeds_follow_from_run_problem_and_version() -> None:
    first, again, later = (Scripted(**ANSWERS.answers) for _ in range(3))
    await evaluator(first, 2).measure(1)
    await evaluator(again, 2).measure(1)
    await evaluator(later, 2).measure(2)
    assert first.asked == again.asked
    assert len({asked[-1] for asked in [*first.asked, *later.asked]}) == 6


def test_an_evaluation_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"evaluation: .*samples.*greedy"):
        parse({"evaluation": {"samples": 0}})
    assert parse({"evaluation": {"samples": 0, "greedy": True}}).evaluation.greedy
