"""Speed of the allocator, each figure as a ratio to a bare FastAPI application: `python -m benchmarks.allocator --help`."""
