"""How many unequal groups are decided per second, against a plain loop over the same groups."""
