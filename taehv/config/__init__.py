"""params.yaml and profiles: their schema, the rules over several keys, and their only readers."""
