"""Tests of the prior service."""
