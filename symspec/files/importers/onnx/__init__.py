"""ONNX graphs, translated node by node; the package onnx reads the bytes.

`files` opens a file, `description` lists its nodes, `translation` walks them in order, `layers`,
`windows` and `scalings` turn each, or a pattern of several (`patterns`), into layers of symspec.
Arithmetic between constants is done on the way (`constants`, `shapes`). `symspec.read_network` is
the way in.
"""
