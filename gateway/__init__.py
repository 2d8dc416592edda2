"""HTTP on one side, Redis on the other, no thought in between."""
