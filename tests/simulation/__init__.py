"""A seeded simulation with virtual time: real clients, real engine, a network and machines that fail by the seed.

    python -m tests.simulation --seed 7 --steps 2000

Real are the trainers' clients (`AllocatorClient` with its retries, `ResilientAllocator` with its journal), the engine
with its decisions, and the pure ledger. Simulated are time (`clock`), the network and the allocator replicas
(`network`), the database that the replicas share (`database`), and what goes wrong with them (`weather`, `world`).
Nothing reads a wall clock, starts a thread or asks the system for randomness: a seed is a whole history, and the digest
of its trace is the same wherever it is run.

`account` keeps books of its own, from the entries that were committed and the answers that were received, and compares
them with the ledger after every step.
"""
