"""Every harness for long: `make soak`, or `python -m tests.soak --help`.

Owns how long each layer runs, what it counts and the table at the end. The layers are the suite's own: the state
machine of `tests/ledger`, the histories of `tests/simulation`, the processes and proxies of `tests/faults`, schemathesis
against both services, and the open-loop load of `tests/load`.
"""
