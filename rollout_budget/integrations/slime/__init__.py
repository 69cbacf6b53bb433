"""slime: functions for its import-path arguments, with the signatures that slime documents.

    --custom-reward-post-process-path rollout_budget.integrations.slime.post_process_rewards
    --custom-rollout-log-function-path rollout_budget.integrations.slime.log_rollout_data
    --rollout-all-samples-process-path rollout_budget.integrations.slime.book_all_samples
    --custom-generate-function-path rollout_budget.integrations.slime.generate
    --custom-rm-path rollout_budget.integrations.slime.reward

`docs/integrations/slime.md` says which are needed for what. Nothing of slime is loaded before the first rollout.
"""

from rollout_budget.integrations.slime.drawing import generate, reward
from rollout_budget.integrations.slime.hooks import book_all_samples, log_rollout_data, post_process_rewards

__all__ = ["book_all_samples", "generate", "log_rollout_data", "post_process_rewards", "reward"]
