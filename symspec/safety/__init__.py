"""What comes in is checked, what goes out is whole: advice, limits, hostile files, resumption, progress."""
