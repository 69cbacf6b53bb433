"""The two REST services. They never import each other."""
