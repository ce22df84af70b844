"""Maps and the kernels that keep them."""
