"""Cost of the DFT machinery around pw.x: planning, the ladder with a full cache, parsing. Run: `python benchmarks/dft.py`."""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from dft_data import SHARED
from test_dft_shards import Place, crystal

from xtalrl.dft.cache import Cache
from xtalrl.dft.outcomes import scf_parse


def timed(label: str, count: int, start: float) -> None:
    """Print how long `count` items took."""
    elapsed = time.perf_counter() - start
    print(f"{label}: {elapsed:.2f} s for {count:,} ({1e3 * elapsed / count:.2f} ms each)")


def main(n: int = 2000) -> None:
    """Print one line a measurement."""
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        start = time.perf_counter()
        place.plan(*(crystal(f"c{i}", *("Na", "Cl") * 5, size=1 + i / n) for i in range(n)))
        timed("plan crystals of 10 sites", n, start)
        start = time.perf_counter()
        place.run(workers=2)
        timed("settle with a stand-in for pw.x, 2 workers", n, start)
        start = time.perf_counter()
        place.run(workers=2)
        timed("settle from the cache", n, start)
        start = time.perf_counter()
        Cache(place.cache)
        timed("read the cache", n, start)
    if files := sorted((SHARED / "pw_outputs").glob("*.pwo.gz")):
        start = time.perf_counter()
        list(scf_parse(files))
        timed("parse production outputs", len(files), start)


if __name__ == "__main__":
    main()
