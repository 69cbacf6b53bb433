"""The pure core, tested by exact enumeration and by properties."""
