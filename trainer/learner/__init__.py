"""The learning side: ragged groups to tensors, a clipped policy gradient, FSDP2 on any number of ranks, checkpoints."""
