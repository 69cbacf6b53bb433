"""The budget's books: a port, its rules as a pure state machine, and the ledger in memory that runs on them."""
