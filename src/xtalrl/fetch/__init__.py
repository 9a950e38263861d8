"""Files from elsewhere: downloads with checksums, and packages from the Python Package Index."""
