"""What comes in is checked, what goes out is whole: the room that every other room stands on.

- Input: flux, ivar, labels, `theta` and options are checked once, where they enter the package.
  An error says what was expected, what came, and what to do, under the caller's own names.
- Files of strangers: HDF5 and npz are opened as named arrays, of which rows are read when asked
  for. No size that a header claims is trusted, and whatever a library raises becomes a
  `symspec.errors.FileFormatError` with the path in it. All HDF5 is opened in `hdf5_files`.
- Output: a file appears under its name once it is complete, or not at all, also where the disk is
  full, and replaces nothing unless told to.
- Long work: finished blocks go to a folder, so that an interrupted call goes on; what would not
  fit in memory is refused before it starts; what takes more than three seconds shows its progress,
  and Ctrl-C is heeded.

Other rooms call these functions. Scripts rarely need one, but for the sizes of memory in words:

>>> from symspec.safety.memory import parse_memory
>>> parse_memory("8GB")
8589934592.0
"""
