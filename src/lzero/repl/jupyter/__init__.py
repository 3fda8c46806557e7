"""REPLs that are plain Jupyter kernels, without a sandbox."""
