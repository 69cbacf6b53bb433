"""How good priors are on a user's own outcomes: rows in, held-back rows scored, tables and a plot out. Serves nothing."""
