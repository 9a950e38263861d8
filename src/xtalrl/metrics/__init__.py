"""Metrics of designs from their composition and from their DFT properties, with intervals."""
