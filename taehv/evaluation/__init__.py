"""The judgements: the gate, the test set, parity, and the report."""
