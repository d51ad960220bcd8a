"""JAX in a process of its own: the two never run at once, and JAX's thread pool is not in torch's way."""
