"""Ask the Materials Project for its formulas."""

from xtalrl.structures.materials_project import fetch_formulas
from xtalrl.workflow import job

with job(snakemake.log[0]):
    fetch_formulas(**snakemake.output, cache=snakemake.config["cache"])
