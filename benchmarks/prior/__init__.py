"""How good the prior service's values are on held-back real outcomes, fed and asked over HTTP."""
