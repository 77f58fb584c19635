"""The training loop and what it trains: objective, terms, checkpoints, processes, log."""
