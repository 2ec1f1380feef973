"""What structures compute with: digits of a difference, Krylov spaces, tiles on a disk.

`digits` tells what rounding leaves of an error bar. `krylov_space` has conjugate gradients on
products alone, which come from the stars themselves (`streamed_rest`) or from their kernel on disk
(`tiled_rest`). The kernel of many stars, too large for memory, is kept or factorised in tiles:
`layout` says which stars and how large, `costs` what it takes before anything is done,
`tile_folder` keeps files that are whole or not believed, `star_blocks` has the tangents of the
stars, and `tiled_cholesky` the factor.
"""
