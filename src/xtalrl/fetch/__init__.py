"""Files from elsewhere: downloads with checksums, and packages from the Python package index."""
