"""verl: an advantage estimator, and an agent-loop manager that draws as many rollouts of a prompt as the allocator says.

`docs/integrations/verl.md` shows both. verl loads `plugin` by itself, through its entry point; `loop` where its
configuration names the manager. This package is empty, so that processes which only keep the books load neither verl
nor PyTorch.
"""
