"""Crystals with a wanted band gap, designed by offline reinforcement learning on DFT data."""

__version__ = "0.1.0"
