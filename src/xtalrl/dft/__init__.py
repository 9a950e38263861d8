"""Self-consistent fields with Quantum ESPRESSO: protocols, engines, recovery, cache, references."""
