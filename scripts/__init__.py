"""Small programs that keep this repository."""
