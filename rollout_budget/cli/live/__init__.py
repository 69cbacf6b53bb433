"""The live view of `top` and `up`: what the service says now (`sampling`), as lines (`screen`), on a terminal (`terminal`)."""
