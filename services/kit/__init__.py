"""What both services share at their edge: errors, HTTP metrics, database engines and transactions, logs, key files, serving.

Owns no domain rule. A service imports this and `rollout_budget`, never another service.
"""
