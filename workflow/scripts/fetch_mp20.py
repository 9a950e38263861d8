"""Download MP-20."""

from xtalrl.structures.mp20 import fetch_csvs
from xtalrl.workflow import job

with job(snakemake.log[0]):
    fetch_csvs(dict(snakemake.output.items()))
