"""The rule vocabulary, decide() and the facts it reads."""
