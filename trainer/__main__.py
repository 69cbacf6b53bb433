"""`python -m trainer`."""

from trainer.cli import app

app()
