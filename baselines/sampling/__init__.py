"""From captions to images with a trained run."""
