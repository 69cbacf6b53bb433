"""SQL of the prior service by subject. `repository.Transaction` puts the parts together."""
