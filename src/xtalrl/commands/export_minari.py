"""Trajectories as a Minari data set (HDF5), for other libraries of offline reinforcement learning.

An episode fills one skeleton. Minari's spaces have fixed shapes, so sites are padded to `MAX_SITES`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xtalrl import __version__, tables
from xtalrl.config import Config
from xtalrl.elements import ELEMENTS, UNFILLED
from xtalrl.errors import XtalrlError
from xtalrl.rl.policies import Reward
from xtalrl.rl.rewards import terminal_rewards
from xtalrl.rl.trajectories import Trajectory, iter_trajectories

MAX_SITES = 20
DATASET = "xtalrl/skeletons-v0"
_PADDED = UNFILLED + 1
"""The element of a site that the crystal does not have."""
_DESCRIPTION = (
    "Crystals filled site by site in breadth-first orders, as the policies of xtalrl learn from them. An observation has the skeleton (lattice in Å, rows are "
    f"vectors; fractional positions of up to {MAX_SITES} sites), the elements placed so far (action index; {UNFILLED} is a site to fill, {_PADDED} none) and the site "
    "that the action fills (-1 after the last). Rewards are 0 before the last step, which has the energy term of the run's reward; the options of an episode have the labels "
    "for any other reward, `band_gap` in eV and `formation_energy_per_atom` in eV/atom. Action indices, from 0: "
    + " ".join(ELEMENTS)
)


def write_minari(config: Config, folder: Path) -> dict[str, int]:
    """Write the trajectories of a run into an empty folder, which is then a `MINARI_DATASETS_PATH`.

    Returns:
        How many episodes and steps there are.

    Raises:
        XtalrlError: Minari or h5py is not installed, or a table is missing or damaged.
    """
    try:
        import gymnasium
        import h5py  # noqa: F401
        import minari
        from minari.data_collector import EpisodeBuffer
    except ImportError as error:
        raise XtalrlError(f'a .minari needs Minari and h5py ({error}): `pip install "minari>=0.5.3" h5py`.') from None
    results = Path(config.results)
    crystals = {
        row["material_id"]: row for row in tables.read_rows(results / "structures/crystals.parquet", tables.CRYSTALS)
    }
    trajectories = results / "trajectories.parquet"
    if unknown := sorted({found.material_id for found in iter_trajectories(trajectories)} - crystals.keys()):
        raise XtalrlError(
            f"{trajectories} has {unknown[0]}, which is not among the crystals of the run: it is older than they are; run `snakemake trajectories`."
        )
    episodes = [
        EpisodeBuffer(**_episode(number, trajectory, crystals[trajectory.material_id], config))
        for number, trajectory in enumerate(iter_trajectories(trajectories))
    ]
    spaces = gymnasium.spaces
    with _datasets_in(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari would rather have an environment and an address to write to.
        data_set = minari.create_dataset_from_buffers(
            DATASET,
            buffer=episodes,
            observation_space=spaces.Dict(
                {
                    "lattice": spaces.Box(-np.inf, np.inf, (3, 3), np.float32),
                    "positions": spaces.Box(-np.inf, np.inf, (MAX_SITES, 3), np.float32),
                    "elements": spaces.Box(0, _PADDED, (MAX_SITES,), np.int8),
                    "site": spaces.Box(-1, MAX_SITES - 1, (1,), np.int8),
                }
            ),
            action_space=spaces.Discrete(len(ELEMENTS)),
            algorithm_name="breadth-first orders of known crystals",
            author="The xtalrl developers",
            description=_DESCRIPTION,
            requirements=[f"xtalrl=={__version__}"],
            data_format="hdf5",
        )
        return {"episodes": data_set.total_episodes, "steps": data_set.total_steps}


def _episode(number: int, trajectory: Trajectory, crystal: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The fields of an `EpisodeBuffer`: T actions between T + 1 observations, in the last of which no site is left (-1)."""
    n_sites, steps = len(crystal["species"]), len(trajectory.order)
    positions = np.zeros((MAX_SITES, 3), np.float32)
    positions[:n_sites] = np.reshape(crystal["frac_coords"], (-1, 3))
    elements = np.full((steps + 1, MAX_SITES), _PADDED, np.int8)
    elements[:, :n_sites] = UNFILLED
    for step, (site, action) in enumerate(zip(trajectory.order, trajectory.actions, strict=True), start=1):
        elements[step:, site] = action
    rewards = np.zeros(steps)
    rewards[-1] = terminal_rewards(
        Reward(**config.reward.model_dump()).without_gap(),
        None,
        band_gap=np.array([trajectory.band_gap]),
        formation_energy_per_atom=np.array([trajectory.formation_energy_per_atom]),
        total_energy_ry=np.array([trajectory.total_energy_ry], np.float64),
    )[0]
    return {
        "id": number,
        "observations": {
            "lattice": np.tile(np.reshape(crystal["lattice"], (3, 3)).astype(np.float32), (steps + 1, 1, 1)),
            "positions": np.tile(positions, (steps + 1, 1, 1)),
            "elements": elements,
            "site": np.array([*trajectory.order, -1], np.int8)[:, None],
        },
        "actions": np.array(trajectory.actions, np.int64),
        "rewards": rewards,
        "terminations": np.arange(steps) == steps - 1,
        "truncations": np.zeros(steps, bool),
        "options": {
            "material_id": trajectory.material_id,
            "split": trajectory.split,
            "n_sites": n_sites,
            "band_gap": trajectory.band_gap,
            "formation_energy_per_atom": trajectory.formation_energy_per_atom,
        },
    }


@contextmanager
def _datasets_in(folder: Path) -> Iterator[None]:
    """Have Minari keep its data sets in a folder, for a while."""
    name = "MINARI_DATASETS_PATH"
    before = os.environ.get(name)
    os.environ[name] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
