"""Complete trainers for AttnGAN, DM-GAN and ALR-GAN on one training loop."""
