"""PyTensor's virtual machine, with NumPy's functions called as they are."""
