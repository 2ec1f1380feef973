"""What symspec's own files hold: named arrays, layers, networks, posteriors, several of these."""
