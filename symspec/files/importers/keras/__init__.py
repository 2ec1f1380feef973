"""Keras's .keras and .h5 files, as arrays and descriptions."""
