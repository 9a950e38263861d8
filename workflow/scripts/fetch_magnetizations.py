"""Ask the Materials Project for magnetizations."""

from xtalrl.structures.materials_project import fetch_magnetizations
from xtalrl.workflow import job

with job(snakemake.log[0]):
    fetch_magnetizations(dict(snakemake.input.items()), **snakemake.output, cache=snakemake.config["cache"])
