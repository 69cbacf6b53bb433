"""A load that makes dashboards move: three teams with five runs, simulated policies, real services.

    rollout-budget demo --url http://127.0.0.1:8100 --key-file admin.key

Owns the teams, the runs and the made-up policies; the command is `cli.demo`'s. Everything that is counted, decided and booked is the services' own:
the load speaks to them as any trainer does. Its outcomes are simulated and say nothing about the method.
"""
