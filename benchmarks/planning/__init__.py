"""Which prompts to open: our plan beside its peers, on real and on synthetic success rates."""
