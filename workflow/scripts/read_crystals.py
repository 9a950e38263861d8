"""Read the crystals, drop metals and reduce the cells."""

from xtalrl.structures.crystals import build_crystals
from xtalrl.workflow import job

with job(snakemake.log[0]):
    build_crystals(dict(snakemake.input.items()), **snakemake.output, **snakemake.params)
