"""What several commands share: options, files, words, and what Ctrl-C does."""
