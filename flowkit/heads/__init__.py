"""Applications built of flows, one package each; import the one you need."""
