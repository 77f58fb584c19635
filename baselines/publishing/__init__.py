"""A trained model as a folder for others: what it holds, and the card that describes it."""
