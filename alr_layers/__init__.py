"""Adaptive layout refinement (ALR-GAN) as layers and losses for text-to-image GANs."""
