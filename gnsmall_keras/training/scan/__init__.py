"""Training on JAX by chunks: one program for many steps, of many runs."""
