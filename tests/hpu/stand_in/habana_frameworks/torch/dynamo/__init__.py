"""torch.compile, without lazy mode."""
