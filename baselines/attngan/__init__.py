"""AttnGAN (and AttnDCGAN): word attention as the fusion of a refinement stage."""
