"""Get and check the pseudopotentials of a family."""

from xtalrl.dft.pseudopotentials import fetch_family
from xtalrl.workflow import job

with job(snakemake.log[0]):
    fetch_family(snakemake.params.family, snakemake.config["dft"]["pseudopotentials"], snakemake.config["cache"])
