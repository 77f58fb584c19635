"""The ops: the reference in plain PyTorch, the fused kernels, and the choice between them."""
