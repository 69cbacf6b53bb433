"""A budget for anyone's own loop: open groups, draw what they want, report, learn from their advantages.

    with rb.Session("my-run", policy="adder") as session:  # url=..., key=... for the service; without, in this process
        for version in range(100):
            groups = session.open([rb.Prompt("17+25", "17+25=")], version=version)
            for wave in session.waves(groups):
                for group in wave:
                    group.add(verify(group.prompt, sample(group.prompt, group.want)))
            learn([group.advantages for group in groups])

`AsyncSession` is the same with `async with`, `await` and `async for`. Neither ever stops a training: a budget that is
gone wants nothing, a service that is away is stood in for by the same rules here, and what the service refuses is
counted, said once, and decided here. What does raise: a wrong key or a rule that does not exist, at the start, and
outcomes outside the range that was declared.
"""

from rollout_budget.session.blocking import Session
from rollout_budget.session.groups import Drawn, Group, Prompt
from rollout_budget.session.waiting import AsyncSession

__all__ = ["AsyncSession", "Drawn", "Group", "Prompt", "Session"]
