"""Where the facts the project owns are kept."""

from __future__ import annotations

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
"""The checkout: xtalrl is installed from it in editable mode."""
RESOURCES = PROJECT / "resources"
