"""Where samples come from: vLLM servers behind a pool, or transformers in this process."""
