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
FAMILY = f"{CACHE}/families/{cfg.dft.family}/family.json"
ENGINE = f"{CACHE}/engine/engine.json"


wildcard_constraints:
    stage="scf|references|evaluation",
    shard=r"\d+",
    policy="|".join(POLICIES),
    seed=r"\d+",


def structure_csvs(wildcards):
    """The three CSVs in MP-20's columns: the user's, the downloaded or the embedded ones."""
    if cfg.structures.path:
        from xtalrl.structures.mp20 import find_csvs

        return find_csvs(cfg.structures.path)
    if cfg.structures.source == "demo":
        return {split: f"{RESULTS}/structures/demo/{split}.csv" for split in SPLITS}
    return {split: f"{CACHE}/mp20/{split}.csv" for split in SPLITS}


def cache_folder(wildcards):
    """Downloads and finished SCFs, shared by all runs: no output of any rule, so Snakemake never deletes it."""
    return CACHE


def shard_outcomes(wildcards):
    """The outcomes of every shard of a stage. Their number is fixed by the config, so no checkpoint is needed."""
    count = getattr(cfg.dft.shards, wildcards.stage)
    return [
        f"{RESULTS}/{wildcards.stage}/shards/{shard:04d}.parquet"
        for shard in range(count)
    ]


def policy_spec(wildcards):
    """The policy as plain data."""
    return POLICIES[wildcards.policy].to_dict()


def policy_runs(pattern):
    """The pattern for every policy and seed."""
    return expand(pattern, policy=POLICIES, seed=cfg.policies.seeds)
