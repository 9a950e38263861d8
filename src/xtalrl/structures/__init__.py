"""Crystals: reading MP-20, the demo set, Niggli cells, CrystalNN graphs."""
