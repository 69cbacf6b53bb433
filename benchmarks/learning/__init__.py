"""How fast a policy learns per rollout: ours beside GRPO, RLOO, DAPO, Reinforce-Ada, SPO and the paper's rule."""
