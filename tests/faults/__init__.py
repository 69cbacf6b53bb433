"""Real processes under faults: a proxy that loses answers, services and a PostgreSQL that are killed at named points."""
