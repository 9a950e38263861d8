"""Offline reinforcement learning. Imports numpy, pyarrow, torch and safetensors only: a GPU node needs no more."""
