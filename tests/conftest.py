"""Fixtures of the whole suite: one real vLLM server for every test that needs one."""

from __future__ import annotations

from tests.vllm_server import vllm, vllm_session

__all__ = ["vllm", "vllm_session"]
