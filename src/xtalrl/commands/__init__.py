"""The commands that a person types, and the checks behind them."""
