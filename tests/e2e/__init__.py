"""Real services, a real vLLM server and the trainer together."""
