"""Keras's `.keras` and `.h5` files, as descriptions and arrays: none of their code is run.

`files` opens a file, `description` reads the layers out of its JSON, `graphs` puts the layers of a
functional model in order, `layers` turns each into one of symspec's, and `hdf5_weights` finds the
arrays. `symspec.read_network` is the way in; a new layer of Keras is an entry in `layers`.
"""
