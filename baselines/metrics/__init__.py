"""What a trained model is measured by; `baselines.evaluate` runs it all."""
