"""Fixtures of the trainer's tests."""

from __future__ import annotations

from tests.vllm_server import vllm, vllm_session

__all__ = ["vllm", "vllm_session"]
