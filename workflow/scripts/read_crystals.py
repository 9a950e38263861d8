"""Read the crystals, drop metals and reduce the cells."""

from xtalrl.structures.crystals import build_crystals
from xtalrl.workflow import job

csvs = dict(snakemake.input.items())
magnetizations = csvs.pop("magnetizations", None) or None

with job(snakemake.log[0]):
    build_crystals(csvs, **snakemake.output, **snakemake.params, magnetizations=magnetizations)
