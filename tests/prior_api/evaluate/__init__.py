"""Tests of the evaluation that users run."""
