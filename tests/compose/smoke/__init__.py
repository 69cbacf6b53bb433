"""The stack in containers, used and shaken: `scripts/compose-smoke` runs it. Not collected by pytest: it takes minutes."""
