"""How fast the learner learns, and in how much memory, beside a plain PyTorch loop on the same rows."""
