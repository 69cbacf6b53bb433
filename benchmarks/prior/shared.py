"""`python -m benchmarks.prior.shared --data FOLDER`: what the noise on shared outcomes costs the teams that learn from them.

A new policy with few rows of its own learns from other policies: of its own team, of another team with noise of several
strengths, and not at all. Errors are on the {-1, +1} scale, against denoised rates.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from services.prior_api import sharing
from services.prior_api.encoders import Choice, create
from services.prior_api.encoders.placement import Placement
from services.prior_api.evaluate import scores
from services.prior_api.evaluate.data import Key, Row, load
from services.prior_api.evaluate.run import Material
from services.prior_api.evaluate.splits import PROTOCOLS, Protocol, Split, split
from services.prior_api.heads import GaussianProcess
from services.prior_api.heads.base import Context
from services.prior_api.records import Cell, Policy, Public

EVIDENCE_ROWS = 256
JUDGED = ("few", "new", "new-recurring")
Cross = Callable[[Cell, int], Cell]


def main() -> None:
    """Parse the command line, encode, judge, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prior.shared", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder as `evaluate` reads it")
    parser.add_argument("--splits", type=int, default=2)
    options = parser.parse_args()
    outcomes = load(options.data)
    encoder = create(Choice(name="minilm"), Placement.choose("cpu", "auto", 1))
    encoder.load()
    names = list(outcomes.texts)
    vectors = encoder.encode([outcomes.texts[name] for name in names])
    bare = Material(outcomes, {})
    hashes = {name: bare.question(next(iter(outcomes.rows)), [name], []).identities[0] for name in names}
    material = Material(outcomes, {hashes[name]: vector for name, vector in zip(names, vectors, strict=True)})
    head = GaussianProcess(encoder.width - encoder.surface, encoder.surface)
    print("| learns from | target prompts | AUC | squared error | explained variance |\n|---|---|---|---|---|")
    arms: list[tuple[str, float | None]] = [
        ("its own team's policies", None),
        ("another team's, without noise", math.inf),
    ]
    arms += [(f"another team's, epsilon {epsilon:g}", epsilon) for epsilon in (4.0, 2.0, 1.0, 0.5)]
    for protocol in (found for found in PROTOCOLS if found.name in JUDGED):
        cuts = [split(outcomes, seed, EVIDENCE_ROWS) for seed in range(options.splits)]
        for name, epsilon in arms if protocol.name != "few" else [("its own 32 rows alone", None)]:
            found = [
                judge(material, head, protocol, cut, key=key, epsilon=epsilon) for cut in cuts for key in cut.targets
            ]
            mean = scores.mean(found)
            where = "met by the others" if protocol.name == "new-recurring" else "unseen"
            print(
                f"| {name} | {where} | {mean.auc:.3f} | {mean.squared_error:.3f} | {mean.explained_variance:.3f} |",
                flush=True,
            )


def judge(
    material: Material, head: GaussianProcess, protocol: Protocol, cut: Split, *, key: Key, epsilon: float | None
) -> scores.Scores:
    """Fit to what one key may learn from and score its targets; an epsilon makes other policies another team's."""
    support: Sequence[Row] = protocol.support(material.outcomes, cut, key)
    context = material.context(support)
    if epsilon is not None:
        context = crossed(context, key[0], epsilon)
    targets = cut.targets[key]
    question = material.question(key, [row.prompt for row in targets], support)
    return scores.score(head.fit(context).values(question), targets, material.truth(key, targets))


def crossed(context: Context, policy: str, epsilon: float) -> Context:
    """Return the context as a team sees it whose other policies are another team's."""
    features, cells = dict(context.features), []
    for place, cell in enumerate(context.cells):
        if cell.policy == policy:
            cells.append(cell)
            continue
        exact = math.isinf(epsilon)
        number = cell.successes if exact else sharing.noisy(cell.successes, epsilon)
        blur = 0.0 if exact else sharing.variance(epsilon)
        row = Public(cell.version, cell.text_hash, int(cell.trials), number, blur, place)
        foreign = sharing.foreign(Policy("other", cell.policy, "shared", 0), row)
        cells.append(foreign)
        if cell.text_hash in context.features:
            features[foreign.identity] = context.features[cell.text_hash]
    return replace(context, cells=cells, features=features)


if __name__ == "__main__":
    main()
