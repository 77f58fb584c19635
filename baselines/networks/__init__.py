"""Networks shared by the hosts: generator, discriminators, encoders, and their start."""
