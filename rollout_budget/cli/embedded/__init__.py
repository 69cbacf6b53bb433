"""Both services embedded in one terminal, behind `rollout-budget up`: processes, their wiring, the loop that watches them."""
