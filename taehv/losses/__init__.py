"""One file per loss term, and the objective that weighs them."""
