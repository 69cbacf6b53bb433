"""A whole training loop on numpy and `rollout_budget.Session`: a policy learns sums; the allocator says how often to try each.

Set ROLLOUT_BUDGET_URL and ROLLOUT_BUDGET_KEY, and run it; without them the same rules decide in this process. While the
allocator is away it trains on, and settles later. `plain_http_loop.py` is the same without our package.
"""

import time

import numpy as np

import rollout_budget as rb

STEPS, RATE, ANSWERS = 40, 0.5, 9  # of learning; answers are 0 to 8
random = np.random.default_rng(0)
sums = {f"{a}+{b}": a + b for a in range(5) for b in range(5)}  # prompts and what is right
prompts = [rb.Prompt(key, f"{key}=") for key in sums]
weights = {key: np.zeros(ANSWERS) for key in sums}  # the policy: a softmax over the answers to each sum

with rb.Session(f"sums-{time.time_ns()}", policy="sums", limits={"rollouts": 20_000}) as session:
    for step in range(STEPS):
        fallbacks = session.fallback_total
        chances = {key: np.exp(weight) / np.exp(weight).sum() for key, weight in weights.items()}
        drawn: dict[str, list[int]] = {key: [] for key in sums}
        groups = session.open(prompts, version=step)
        for wave in session.waves(groups):
            for group in wave:
                key = group.prompt.key
                answers = random.choice(ANSWERS, size=group.want, p=chances[key]).tolist()
                drawn[key] += answers
                group.add([float(answer == sums[key]) for answer in answers])
        for group in groups:
            key = group.prompt.key
            for answer, advantage in zip(drawn[key], group.advantages, strict=True):
                weights[key] += RATE * advantage * (np.eye(ANSWERS)[answer] - chances[key])
        accuracy = np.mean([chances[key][right] for key, right in sums.items()])
        alone = " alone" if session.fallback_total > fallbacks else ""
        print(f"step {step}: accuracy {accuracy:.3f}, {sum(map(len, drawn.values()))} rollouts{alone}", flush=True)
