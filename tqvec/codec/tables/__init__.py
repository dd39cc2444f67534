"""Tables of a codec as the kernels take them."""
