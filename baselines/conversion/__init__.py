"""How the original AttnGAN, DM-GAN and DAMSM files name things, and how to read them."""
