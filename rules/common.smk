"""The validated configuration and the helpers that several rules share."""

from snakemake.exceptions import WorkflowError

from xtalrl.config import validate
from xtalrl.errors import XtalrlError
from xtalrl.workflow import check_folders

try:
    cfg = validate(config)
    check_folders(cfg)
except XtalrlError as error:
    raise WorkflowError(str(error)) from None

RESULTS = cfg.results
CACHE = cfg.cache
SPLITS = ("train", "val", "test")
POLICIES = cfg.policy_specs()
SHARDS = [f"{shard:04d}" for shard in range(cfg.dft.shards)]
FAMILY = f"{CACHE}/families/{cfg.dft.family}/family.json"
ENGINE = f"{CACHE}/engine/engine.json"


wildcard_constraints:
    stage="scf|references|evaluation",
    shard=r"\d{4,}",
    policy="|".join(POLICIES),
    seed=r"\d+",


def structure_csvs(wildcards):
    """The three CSVs in MP-20's columns: the user's, the downloaded or the embedded ones."""
    from xtalrl.structures.mp20 import find_csvs

    if cfg.structures.path:
        return find_csvs(cfg.structures.path)
    if cfg.structures.source == "demo":
        return {split: f"{RESULTS}/structures/demo/{split}.csv" for split in SPLITS}
    return {split: f"{CACHE}/mp20/{split}.csv" for split in SPLITS}


def policy_spec(wildcards):
    """The policy as plain data."""
    return POLICIES[wildcards.policy].to_dict()


def policy_runs(pattern):
    """The pattern for every policy and seed."""
    return expand(pattern, policy=POLICIES, seed=cfg.policies.seeds)
