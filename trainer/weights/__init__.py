"""New weights on their way from the learner to whoever generates: exports, publishing, the check afterwards."""
