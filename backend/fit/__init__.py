"""Will it run here: bytes of a model with its options against what this machine has free. Opens no weights."""
