"""tinker-cookbook: groups of the allocator's size, drawn in waves, and its advantages in place of centred rewards.

    async with rb.AsyncSession("my-run", policy="my-model") as session:
        await train.main(budgeted(config, session))

Rollouts in other processes (`rollout_executor`) have no session and stay tinker-cookbook's own.
"""

from rollout_budget.integrations.tinker.wrapping import budgeted, question_of

__all__ = ["budgeted", "question_of"]
