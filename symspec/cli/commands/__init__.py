"""The commands, one file each: a function of typed options, and EXAMPLES for its help."""
