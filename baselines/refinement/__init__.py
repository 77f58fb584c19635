"""What ALR adds to the objective of any host."""
