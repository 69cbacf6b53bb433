"""From one machine's measured service times to many teams on many replicas and databases, by simulation."""
