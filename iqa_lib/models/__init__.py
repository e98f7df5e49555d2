"""The networks, as the reference code computes them."""
