"""Ask the Materials Project for the ground states of the elements."""

from xtalrl.structures.materials_project import fetch_elemental_crystals
from xtalrl.workflow import job

with job(snakemake.log[0]):
    fetch_elemental_crystals(**snakemake.output, cache=snakemake.config["cache"])
