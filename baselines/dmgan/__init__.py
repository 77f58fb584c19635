"""DM-GAN: a dynamic memory as the fusion of a refinement stage."""
