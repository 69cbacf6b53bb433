"""The training client: vLLM rollouts over HTTP, budgeted waves, FSDP2 learning. Nothing else imports it."""
