"""Offline reinforcement learning. Imports numpy, pyarrow, tqdm, torch and safetensors only: a GPU node needs no more."""
