"""Do servers stay busy while the allocator decides? Measured against the same rollouts without one."""
